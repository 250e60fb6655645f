"""Where the numbers of a run go: a JSON-lines file, TensorBoard, Weights & Biases."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from owl2_jax.core.append_file import AppendFile, read_whole_lines, write_lines
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_writing import write_text
from owl2_jax.core.paths import in_bucket
from owl2_jax.core.text_files import read_text
from owl2_jax.training.config import WandbConfig
from owl2_jax.training.logging.events import EventWriter

METRICS_FILE = "metrics.jsonl"
EVENTS_DIR = "tensorboard"


class MetricWriter:
    """Appends scalars; a resumed run leaves no step twice.

    Args:
      run: the run directory.
      first_step: the last step that is done; lines after it are removed.
      wandb: also report there.
    """

    def __init__(self, run: Path, first_step: int, wandb: WandbConfig | None = None) -> None:
        self._path = run / METRICS_FILE
        _drop_after(self._path, first_step)
        self._file = AppendFile(self._path)
        self._events = EventWriter(run / EVENTS_DIR, first_step + 1)
        self._wandb = None if wandb is None else _start_wandb(wandb, run)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one reading; a value that is not finite is null in the file and left out elsewhere.

        Raises:
          Owl2Error: the disk is full; no file holds a part of the reading.
        """
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._file.write_json({"step": step, **{name: finite.get(name) for name in values}})
        self._events.write(step, finite)
        if self._wandb is not None:
            self._wandb.log(finite, step=step)

    def flush(self) -> None:
        """Has all readings so far where a resumed run finds them.

        Raises:
          Owl2Error: a store refuses them. One that is away gets them later.
        """
        self._file.flush()
        self._events.flush()

    def close(self) -> None:
        """Closes every one, also when another fails. Raises `Owl2Error`, which tells of all that fail."""
        closers = [self._file.close, self._events.close]
        if self._wandb is not None:
            closers.append(self._wandb.finish)
        failed = []
        for close in closers:
            try:
                close()
            except Owl2Error as error:
                failed.append(error)
        if failed:
            raise Owl2Error(". ".join(dict.fromkeys(map(str, failed)))) from failed[0]


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The readings of a run in order; a line that was cut by a crash ends them."""
    return read_whole_lines(run / METRICS_FILE)


def _drop_after(path: Path, step: int) -> None:
    """Removes readings of steps that are about to be taken again, and a line that was cut."""
    if not path.is_file():
        return
    kept = [line for line in read_metrics(path.parent) if line["step"] <= step]
    write_lines(path, kept)


def check_wandb(config: WandbConfig | None) -> None:
    """Raises `Owl2Error` when Weights & Biases is asked for and not installed."""
    if config is not None and importlib.util.find_spec("wandb") is None:
        raise Owl2Error(
            "train.wandb is set, but the package wandb is not installed; "
            "run `pip install wandb`, or set train.wandb to None"
        )


def _start_wandb(config: WandbConfig, run: Path) -> Any:
    """One W&B run per run directory, however often it is resumed."""
    import wandb

    identity = run / "wandb_id.txt"
    if not identity.is_file():
        write_text(identity, wandb.util.generate_id())
    return wandb.init(
        project=config.project,
        name=config.name or run.name,
        id=read_text(identity).strip(),
        resume="allow",
        mode=config.mode,
        dir=str(run) if not in_bucket(run) else None,  # W&B keeps files of its own on this machine alone
    )
