"""The commands that make up a run, as lists of arguments of `owl2`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from owl2_jax.checkpoint.param_files import read_model_json, resolve_checkpoint
from owl2_jax.config import RunConfig
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.paths import as_path
from owl2_jax.model.config import Owl2Config
from owl2_jax.sweeps.folder import SweepFolder
from owl2_jax.sweeps.grid import Run, Sweep


@dataclass(frozen=True)
class Commands:
    """What `owl2` is called with for one run.

    Attributes:
      resize: makes the checkpoint the run starts from; None when none is needed.
      start: that checkpoint; None for what the base config says.
      train: one process per host.
      evaluate: on the trained checkpoint; None without benchmarks.
    """

    resize: list[str] | None
    start: Path | None
    train: list[str]
    evaluate: list[str] | None


def commands_of(sweep: Sweep, folder: SweepFolder, run: Run) -> Commands:
    """The commands of a run. Raises `Owl2Error` when the checkpoint to start from is not there."""
    config = sweep.run_config(run)
    overrides = [*sweep.config.overrides, *run.overrides]
    start = _start(sweep, folder, run, config)
    started = overrides if start is None else [*overrides, f"train.start_from={start}"]
    files = folder.run(run)
    return Commands(
        resize=None if start is None else _resize(sweep.start_of(run), start, config),
        start=start,
        train=["train", f"--config={sweep.base}", f"--workdir={files.training}", *started],
        evaluate=_evaluate(sweep, folder, run) if sweep.config.benchmarks else None,
    )


def fit_command(sweep: Sweep, run: Run) -> list[str]:
    """Prints as JSON what a run's step needs on the sweep's slice."""
    overrides = [*sweep.config.overrides, *run.overrides]
    return ["fit", f"--config={sweep.base}", f"--topology={sweep.config.topology}", "--json", *overrides]


def _start(sweep: Sweep, folder: SweepFolder, run: Run, config: RunConfig) -> Path | None:
    """The checkpoint itself when it has the sizes of `config`, else a copy to be made."""
    source = sweep.start_of(run)
    if source is None:
        return None
    try:
        found = resolve_checkpoint(source)
    except Owl2Error as error:
        whose = "start_from of the sweep" if source == sweep.config.start_from else f"point {run.point.name}"
        raise Owl2Error(f"{whose}: {error}; train or convert it first") from None
    theirs = Owl2Config.from_dict(read_model_json(found.directory)["model"])
    if _sizes(theirs) == _sizes(config.model):
        return as_path(source)
    return folder.start(config, None if source == sweep.config.start_from else source)


def _sizes(config: Owl2Config) -> tuple[int, int, str]:
    return config.vision.image_size, config.abstractor.num_queries, config.decoder.adaptive


def _resize(source: str | None, start: Path, config: RunConfig) -> list[str] | None:
    if source is not None and start == as_path(source):
        return None
    size, queries, adaptive = _sizes(config.model)
    return [
        "convert", "resize", f"--checkpoint={source}", f"--output={start}",
        f"--image-size={size}", f"--num-queries={queries}", f"--adaptive={adaptive}",
    ]  # fmt: skip


def _evaluate(sweep: Sweep, folder: SweepFolder, run: Run) -> list[str]:
    files, config = folder.run(run), sweep.config
    command = [
        "evaluate", f"--checkpoint={files.training}", f"--output={files.scores}",
        f"--benchmarks={','.join(config.benchmarks)}", f"--data-root={config.data_root}",
    ]  # fmt: skip
    return [*command, f"--limit={config.max_questions}"] if config.max_questions else command
