"""`owl2 train`: one training run from a config file, or the rest of it."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from owl2_jax.cli.common import keep_compiled_programs, only_writer, refuse_other_writer
from owl2_jax.core.locks import LOCK_FILE
from owl2_jax.core.paths import in_bucket
from owl2_jax.core.texts import BucketPath

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from owl2_jax.config import RunConfig
    from owl2_jax.data.pipeline import Pipeline
    from owl2_jax.data.tokenizer import Tokenizer
    from owl2_jax.training.loop import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `owl2 train`."""
    parser.add_argument(
        "--config", required=True, metavar="FILE.py[:ARGUMENTS]",
        help="config file or recipe (instruct_7b), and name=value,... for one that takes arguments",
    )  # fmt: skip
    parser.add_argument(
        "--workdir", required=True, type=BucketPath, help="run directory; resumed if it exists"
    )
    parser.add_argument(
        "--accept-changed-data", action="store_true",
        help="go on with a run although files of its data have changed since",
    )  # fmt: skip
    parser.add_argument(
        "overrides", nargs="*", metavar="FIELD=VALUE", help="changed fields, as train.total_steps=100"
    )


def main(args: argparse.Namespace) -> int:
    """Runs `owl2 train`; returns the exit code."""
    from owl2_jax.config import load_config, todays_names

    config = load_config(args.config, args.overrides)
    _check_folders(config, args)

    from owl2_jax.core.host_memory import keep_freed_memory
    from owl2_jax.parallel import multihost
    from owl2_jax.training.run_directory import (
        check_run_directory,
        check_tokenizer_file,
        is_complete,
        saved_step,
    )

    keep_freed_memory()
    set_up_logs()
    tokenizer = _check(config)
    keep_compiled_programs()
    multihost.initialize()
    multihost.agree("config", config.to_dict())
    with only_writer(args.workdir / LOCK_FILE, f"--workdir {args.workdir}"):
        # Again: until now another one could write it.
        check_run_directory(args.workdir, config.to_dict(), todays_names)
        # Where hosts see different run directories, some would train on while others wait for them.
        multihost.agree("newest saved step", saved_step(args.workdir))
        if is_complete(args.workdir, config.train.num_steps):
            print(f"{args.workdir} is complete: step {config.train.num_steps} is saved")
            return 0
        check_tokenizer_file(args.workdir, tokenizer.bytes)
        outcome = _train(config, tokenizer, args)
    if outcome.signal is not None and not outcome.finished:
        step = int(outcome.state.step)
        print(f"stopped after step {step}, which is saved; the same command resumes the run", flush=True)
        if outcome.signal == signal.SIGINT:
            raise KeyboardInterrupt
    return 0


def set_up_logs() -> None:
    """Our warnings on the error stream; what the libraries below log reaches us as exceptions.

    Orbax's errors are still records, in which a failed save is found; nobody shows them.
    """
    ours = logging.getLogger("owl2_jax")
    if not any(isinstance(handler, _Warnings) for handler in ours.handlers):
        ours.addHandler(_Warnings())
    below = logging.getLogger("absl")
    below.setLevel(logging.ERROR)
    below.propagate = False
    if not below.handlers:  # without one, Python would show them itself
        below.addHandler(logging.NullHandler())


class _Warnings(logging.Handler):
    """Writes to what is the error stream then, not when the handler was made: a caller may exchange it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"warning: {record.getMessage()}", file=sys.stderr, flush=True)


def _check_folders(config: RunConfig, args: argparse.Namespace) -> None:
    """Refuses what can be refused before JAX is imported, which takes seconds."""
    from owl2_jax.checkpoint.orbax_s3 import know_s3
    from owl2_jax.checkpoint.param_files import check_checkpoint
    from owl2_jax.config import todays_names
    from owl2_jax.core.file_writing import check_folder
    from owl2_jax.training.run_directory import check_known_data, check_run_directory

    if in_bucket(args.workdir):  # before anything is read there: missing rights look like a missing run
        know_s3(args.workdir)
        check_folder(args.workdir, "--workdir")
    check_run_directory(args.workdir, config.to_dict(), todays_names)
    if not in_bucket(args.workdir):
        check_folder(args.workdir, "--workdir")
    if config.train.local_checkpoints is not None:
        check_folder(config.train.local_checkpoints.folder, "train.local_checkpoints.folder")
    refuse_other_writer(args.workdir / LOCK_FILE, f"--workdir {args.workdir}")
    if not args.accept_changed_data:
        check_known_data(args.workdir)
    if config.train.start_from is not None:
        check_checkpoint(config.train.start_from)


def _check(config: RunConfig) -> Tokenizer:
    """Refuses what can be refused before a device is touched."""
    from owl2_jax.data.pipeline import load_tokenizer
    from owl2_jax.evals.training_hooks import metric_names
    from owl2_jax.model.owl2 import abstract_params
    from owl2_jax.training.hooks import check_best
    from owl2_jax.training.initialize import check_start
    from owl2_jax.training.logging.metrics import check_wandb
    from owl2_jax.training.param_groups import assign_groups

    tokenizer = load_tokenizer(config.data)
    check_tokenizer(tokenizer.vocab_size, config.model.decoder.vocab_size)
    check_wandb(config.train.wandb)
    check_best(config.train.best, metric_names(config))
    shapes = abstract_params(config.model)
    assign_groups(shapes, config.train)
    check_start(config.train.start_from, shapes, tokenizer.bytes)
    return tokenizer


def check_tokenizer(found: int, expected: int) -> None:
    """Raises `Owl2Error` when tokenizer and model disagree about the vocabulary."""
    from owl2_jax.core.errors import Owl2Error
    from owl2_jax.core.vocabulary import why_no_fit

    if why_no_fit(found, expected):
        raise Owl2Error(
            f"the tokenizer has {found} pieces, model.decoder.vocab_size is {expected}; "
            "give the tokenizer the model was made for (data.tokenizer)"
        )


def _train(config: RunConfig, tokenizer: Tokenizer, args: argparse.Namespace) -> Outcome:
    """Starts the devices and trains."""
    import jax

    from owl2_jax.data.pipeline import Pipeline
    from owl2_jax.evals.training_hooks import make_hooks
    from owl2_jax.parallel.mesh import make_mesh
    from owl2_jax.parallel.placement import data_shard, reads_first
    from owl2_jax.parallel.shardings import check_batch
    from owl2_jax.training.loop import train
    from owl2_jax.training.run_directory import write_run_directory
    from owl2_jax.training.trainer import make_trainer

    run, title = args.workdir, Path(args.config.partition(":")[0]).stem
    mesh = make_mesh(config.mesh)
    check_batch(config.data.rows, mesh, "data.rows", config.train.accumulate_steps)
    check_batch(config.data.images, mesh, "data.images", config.train.accumulate_steps)
    trainer = make_trainer(
        config.model,
        config.train,
        mesh,
        tuple(config.data.datasets),
        config.data.max_targets,
        config.data.shards,
    )
    image_size, span = config.model.vision.image_size, config.model.tokens_per_image
    quarantine = run / "rejected.jsonl" if reads_first(mesh) else None
    pipeline = Pipeline(config.data, image_size, span, data_shard(mesh), quarantine)
    try:
        hooks = make_hooks(config, trainer, tokenizer)
        _check_data(run, pipeline, args.accept_changed_data)
        if jax.process_index() == 0:
            write_run_directory(run, config.to_dict(), tokenizer.bytes)
            _record(config, run, mesh, pipeline)
        return train(trainer, pipeline, run, title=title, hooks=hooks)
    finally:
        pipeline.close()


def _check_data(run: Path, pipeline: Pipeline, accept: bool) -> None:
    """The data is the same on every host, and what the run was trained on so far."""
    from owl2_jax.core.file_identity import identities
    from owl2_jax.parallel import multihost
    from owl2_jax.training.run_directory import check_data

    found = {name: identities(files) for name, files in pipeline.files.items()}
    multihost.agree("data files", found)
    multihost.by_first("check of the data", lambda: check_data(run, found, accept, pipeline.files))


def _record(config: RunConfig, run: Path, mesh: Mesh, pipeline: Pipeline) -> None:
    import jax

    from owl2_jax.training.run_directory import record_start

    devices = {
        "kind": jax.devices()[0].device_kind,
        "count": jax.device_count(),
        "processes": jax.process_count(),
        "mesh": dict(mesh.shape),
    }
    record_start(run, config.to_dict(), devices, pipeline.get_state()["records"])
