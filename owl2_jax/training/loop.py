"""A training run from configuration to last checkpoint."""

from __future__ import annotations

import contextlib
import functools
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from owl2_jax.core import params_io
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.batch import Batch
from owl2_jax.data.pipeline import Pipeline
from owl2_jax.model.owl2 import abstract_params, init_params
from owl2_jax.parallel import placement
from owl2_jax.training import groups
from owl2_jax.training.checkpoints import Checkpoints
from owl2_jax.training.metrics import MetricWriter, Stopwatch, TerminalProgress, print_groups
from owl2_jax.training.optimizer import schedule
from owl2_jax.training.state import TrainState
from owl2_jax.training.step import DeviceBatch
from owl2_jax.training.trainer import Trainer


def starting_params(trainer: Trainer) -> dict[str, Any]:
    """Parameters of `start_from`, or random ones from the seed. Raises `Owl2Error`."""
    like = trainer.abstract_state().params
    if trainer.config.start_from is None:
        init = functools.partial(init_params, trainer.model.config)
        place = jax.tree.map(lambda leaf: leaf.sharding, like)
        return jax.jit(init, out_shardings=place)(jax.random.key(trainer.config.seed))
    checkpoint = params_io.resolve_checkpoint(trainer.config.start_from)
    return params_io.restore_params(checkpoint.params, like)


def device_batch(batch: Batch, mesh: jax.sharding.Mesh) -> DeviceBatch:
    """Puts a host's rows onto the mesh."""
    index = batch.image_index
    if jax.process_count() > 1:
        index = placement.global_image_index(index, len(batch.images), mesh)
    names = DeviceBatch.__dataclass_fields__
    arrays = {name: getattr(batch, name) for name in names} | {"image_index": index}
    return placement.place(DeviceBatch(**arrays), mesh)


def train(trainer: Trainer, pipeline: Pipeline, run: Path, title: str = "train") -> tuple[TrainState, bool]:
    """Trains to the configured step, resuming what the run directory holds.

    Args:
      run: an opened run directory (`checkpoints.open_run_directory`).

    Returns:
      The last state, saved, and whether the run reached its end; it stops early
      after SIGTERM.

    Raises:
      Owl2Error: too many non-finite steps in a row, too many unusable records,
        or no readable checkpoint.
    """
    config = trainer.config
    print_groups(groups.table(abstract_params(trainer.model.config), trainer.plans, config))

    # Where to begin: the newest checkpoint of this run, or the starting parameters.
    checkpoints = Checkpoints(run, config.keep_checkpoints)
    resumed = checkpoints.restore(trainer.abstract_state())
    if resumed is None:
        state = trainer.create(starting_params(trainer))
    else:
        state, data_state = resumed
        pipeline.set_state(data_state)
    first = int(state.step)

    # The steps. Metrics stay on the device until they are reported.
    reporter = _Reporter(trainer, run, title, first)
    with _stop_signal() as stop:
        for step in range(first + 1, config.num_steps + 1):
            batch = reporter.wait_for(pipeline)
            state, metrics = trainer.step(state, device_batch(batch, trainer.mesh))
            reporter.add(step, batch, metrics)
            last = step == config.num_steps or bool(stop)
            if step % config.save_every_steps == 0 or last:
                checkpoints.save(state, pipeline.get_state())
            if last:
                break

    # The end: nothing is done until the last save is on disk.
    reporter.close()
    checkpoints.close()
    return state, int(state.step) >= config.num_steps


class _Reporter:
    """Collects the metrics of steps and reports their means."""

    def __init__(self, trainer: Trainer, run: Path, title: str, first: int) -> None:
        self._config = trainer.config
        self._rate = schedule(self._config.schedule, self._config.num_steps)
        self._writer = MetricWriter(run, first)
        self._progress = TerminalProgress(title, self._config.num_steps, first)
        self._watch = Stopwatch()
        self._pending: list[Mapping[str, jax.Array]] = []
        self._tokens = self._samples = self._images = self._positions = 0

    def wait_for(self, pipeline: Pipeline) -> Batch:
        """Takes the next batch; the time it takes is the step's wait for data."""
        start = time.perf_counter()
        batch = next(pipeline)
        self._watch.add("data_wait", time.perf_counter() - start)
        return batch

    def add(self, step: int, batch: Batch, metrics: Mapping[str, jax.Array]) -> None:
        self._pending.append(metrics)
        self._tokens += batch.num_tokens
        self._samples += batch.num_samples
        self._images += batch.num_images
        self._positions += batch.tokens.size
        if step % self._config.log_every_steps == 0 or step == self._config.num_steps:
            self._report(step)

    def _report(self, step: int) -> None:
        fetched = jax.device_get(self._pending)
        seconds, shares = self._watch.read()
        count = len(fetched)
        values = {
            name: float(np.mean([m[name] for m in fetched])) for name in ("loss", "accuracy", "grad_norm")
        }
        values |= {
            "learning_rate": float(self._rate(step - 1)),
            "skipped_steps": int(fetched[-1]["skipped"]),
            "seconds_per_step": seconds / count,
            "tokens_per_second": self._tokens / seconds,
            "samples_per_second": self._samples / seconds,
            "images_per_second": self._images / seconds,
            "packing_efficiency": self._tokens / self._positions,
            **shares,
        }
        self._pending = []
        self._tokens = self._samples = self._images = self._positions = 0
        self._writer.write(step, values)
        self._progress.update(step, values)
        if fetched[-1]["bad_steps"] >= self._config.max_bad_steps:
            raise Owl2Error(
                f"step {step}: loss or gradient was not finite for {int(fetched[-1]['bad_steps'])} steps in a "
                "row; lower the learning rate, or look at the batches of these steps"
            )

    def close(self) -> None:
        self._writer.close()
        self._progress.close()


@contextlib.contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """A list that SIGTERM makes non-empty: the running step ends, then the run saves and stops."""
    received: list[int] = []
    try:
        old = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, old)
