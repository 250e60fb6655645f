"""Loss on held-out data, as a hook of the loop; the data is shared out over the processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import Params
from owl2_jax.data.batch import Batch, Sample, build_batch
from owl2_jax.data.config import DataConfig
from owl2_jax.data.encode import EncodedSet, Rejected
from owl2_jax.data.packing import RowLimits, iterate_once
from owl2_jax.data.pipeline import open_mixture, row_limits
from owl2_jax.parallel.multihost import all_gather
from owl2_jax.parallel.placement import data_shard
from owl2_jax.training.config import HeldoutConfig
from owl2_jax.training.device_batch import device_batch
from owl2_jax.training.hooks import Hook
from owl2_jax.training.losses import LossSums
from owl2_jax.training.trainer import Trainer, make_loss

NAME = "heldout"


def heldout_metrics(config: HeldoutConfig) -> tuple[str, ...]:
    """Names of what the hook measures."""
    sets = [f"{metric}/{name}" for metric in ("loss", "accuracy") for name in config.datasets]
    return ("loss", "accuracy", *sets)


def make_heldout(config: HeldoutConfig, data: DataConfig, trainer: Trainer) -> Hook:
    """Opens the sets; batches are made at the first evaluation and kept.

    Args:
      data: how the run's own data is shaped; rows are as in a part of its step.

    Raises:
      Owl2Error: a set that cannot be opened.
    """
    model, parts = trainer.model.config, trainer.config.accumulate_steps
    shard = data_shard(trainer.mesh)
    data = dataclasses.replace(
        data,
        datasets=config.datasets,
        rows=data.rows // parts,
        images=data.images // parts,
        shards=shard[1],
        augment=None,
    )
    limits = row_limits(data, model.vision.image_size)
    sets = open_mixture(data, model.vision.image_size, model.tokens_per_image).sets
    loss = make_loss(trainer, len(sets))
    batches: list[Batch] = []

    def run(params: Params) -> dict[str, float]:
        if not batches:
            samples = _samples(sets, config.max_samples, *shard)
            batches.extend(_same_count(list(iterate_once(samples, limits)), limits))
        sums = None
        for batch in batches:
            found = loss(params, device_batch(batch, trainer.mesh, datasets=True))
            sums = found if sums is None else jax.tree.map(jax.numpy.add, sums, found)
        return _means(jax.device_get(sums), list(config.datasets))

    return Hook(NAME, config.every_steps, run, heldout_metrics(config))


def _samples(
    sets: list[EncodedSet], most: int, number: int, count: int
) -> Iterator[tuple[Sample | None, Rejected | None]]:
    """This process's part of at most `most` samples of each set, spread evenly over it."""
    for one in sets:
        records = np.unique(np.linspace(0, len(one.source) - 1, min(most, len(one.source))).astype(int))
        for record in records[number::count]:
            yield one.get(int(record), 0)


def _same_count(batches: list[Batch], limits: RowLimits) -> list[Batch]:
    """Adds empty batches, so that every process takes part in every computation."""
    most = max(all_gather(len(batches)))
    rows: list[list[Sample]] = [[] for _ in range(limits.rows)]
    empty = build_batch(rows, limits.length, limits.images_per_row, limits.images, limits.image_size)
    return batches + [empty] * (most - len(batches))


def _means(sums: LossSums | None, names: list[str]) -> dict[str, float]:
    """Raises `Owl2Error` when a set had no usable sample."""
    classes = np.zeros((2 * len(names), 3)) if sums is None else sums.classes.astype(np.float64)
    rows = dict(zip(names, classes.reshape(-1, 2, 3).sum(axis=1), strict=True))
    for name, (_, _, count) in rows.items():
        if not count:
            raise Owl2Error(f"heldout.datasets.{name} has no usable sample that fits into a row")
    values = {"loss": sums.loss / sums.count, "accuracy": sums.correct / sums.count}
    for name, (loss, correct, count) in rows.items():
        values |= {f"loss/{name}": loss / count, f"accuracy/{name}": correct / count}
    return {name: float(value) for name, value in values.items()}
