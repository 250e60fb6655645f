"""Whole runs at a size that compiles in seconds: a tiny model on the embedded corpus."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from owl2_jax.config import RunConfig, apply_overrides
from owl2_jax.core import tree
from owl2_jax.data.batch import Batch
from owl2_jax.data.pipeline import Pipeline, load_tokenizer
from owl2_jax.parallel.mesh import make_mesh
from owl2_jax.parallel.placement import data_shard
from owl2_jax.testing import tiny
from owl2_jax.training.hooks import Hook
from owl2_jax.training.loop import Outcome, train
from owl2_jax.training.run_directory import check_run_directory, write_run_directory
from owl2_jax.training.trainer import Trainer, make_trainer

# Three groups, one of them frozen; images and text; a warm-up.
VALUES: dict[str, Any] = {
    "model": tiny.tiny_config(**{"decoder.vocab_size": 4096}).to_dict(),
    "data": {
        "datasets": {
            "captions": {"kind": "embedded", "options": {"dataset": "captions"}},
            "facts": {"kind": "embedded", "options": {"dataset": "facts"}},
        },
        "rows": 8,
        "row_length": 64,
        "images_per_row": 3,
        "images": 8,
        "image_mode": "resize",
        "max_targets": 32,
        "shards": 2,
    },
    "train": {
        "total_steps": 4,
        "log_every_steps": 2,
        "save_every_steps": 2,
        "groups": [
            {"name": "vision", "pattern": "vision/.*", "trainable": False},
            {"name": "abstractor", "pattern": "abstractor/.*", "lr_multiplier": 0.5},
            {"name": "decoder", "pattern": "decoder/.*", "weight_decay": 0.1},
        ],
        "schedule": {"peak_lr": 1e-3, "warmup_steps": 2},
    },
    "mesh": {"data": 1},
}


def run_config(*overrides: str) -> RunConfig:
    """`VALUES` with "a.b=value" overrides."""
    return RunConfig.from_dict(apply_overrides(VALUES, overrides))


def write_config(path: Path) -> Path:
    """`VALUES` as a config file."""
    path.write_text(f"def get_config():\n    return {VALUES!r}\n")
    return path


def train_command(config: Path, run: Path, *overrides: str) -> list[str]:
    """`owl2 train` as a process of its own."""
    program = [sys.executable, "-m", "owl2_jax.cli.main", "train"]
    return [*program, f"--config={config}", f"--workdir={run}", *overrides]


class Counted:
    """A pipeline that remembers what it gave, and asks the run to stop after a batch."""

    def __init__(self, pipeline: Pipeline, stop_behind: int | None) -> None:
        self._pipeline, self._stop_behind = pipeline, stop_behind
        self.tokens: list[np.ndarray] = []
        self.get_state, self.set_state = pipeline.get_state, pipeline.set_state

    def __next__(self) -> Batch:
        batch = next(self._pipeline)
        self.tokens.append(batch.tokens)
        if len(self.tokens) == self._stop_behind:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch


def trainer_of(config: RunConfig, devices: int = 1) -> Trainer:
    mesh = make_mesh(config.mesh, jax.devices()[:devices])
    return make_trainer(
        config.model,
        config.train,
        mesh,
        tuple(config.data.datasets),
        config.data.max_targets,
        config.data.shards,
    )


@contextlib.contextmanager
def pipeline_of(config: RunConfig, trainer: Trainer) -> Iterator[Pipeline]:
    pipeline = Pipeline(
        config.data,
        config.model.vision.image_size,
        config.model.tokens_per_image,
        data_shard(trainer.mesh),
    )
    try:
        yield pipeline
    finally:
        pipeline.close()


def run(
    config: RunConfig,
    folder: Path,
    stop_behind: int | None = None,
    trainer: Trainer | None = None,
    hooks: tuple[Hook, ...] = (),
) -> tuple[Outcome, list[np.ndarray]]:
    """Trains in a run directory; returns how it ended and the tokens of every batch."""
    trainer = trainer or trainer_of(config)
    check_run_directory(folder, config.to_dict())
    write_run_directory(folder, config.to_dict(), load_tokenizer(config.data).bytes)
    with pipeline_of(config, trainer) as pipeline:
        batches = Counted(pipeline, stop_behind)
        return train(trainer, batches, folder, hooks=hooks), batches.tokens


def leaves(values: Any) -> dict[str, np.ndarray]:
    """{name: array} of a parameter tree."""
    return {name: np.asarray(leaf) for name, leaf in tree.flatten(values).items()}


def assert_equal_trees(actual: Any, expected: Any) -> None:
    """Bit for bit, in any pytree."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
