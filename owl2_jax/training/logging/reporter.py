"""What the steps measured, gathered over a window and reported at its end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import jax
import numpy as np

from owl2_jax.core.append_file import close_or_warn
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.batch import Batch
from owl2_jax.parallel.chips import chip_of
from owl2_jax.training.goodput import COMPILE, DATA_WAIT, GoodputClock
from owl2_jax.training.logging.metrics import MetricWriter, read_metrics
from owl2_jax.training.logging.terminal import TerminalProgress
from owl2_jax.training.optimizer import schedule
from owl2_jax.training.step import DeviceBatch
from owl2_jax.training.trainer import Trainer

# Steps that may be under way on the device: enough to keep it busy, few
# enough that a request to stop is followed within two steps.
_AHEAD: Final = 2
_COUNTS: Final = ("tokens", "positions", "samples", "images")


class Reporter:
    """Follows a run: speed, losses, shares of time. Every process has one; the first writes.

    Args:
      run: the run directory.
      title: of the progress bar.
      first: the last step that is done.
      started: when this start of the run began, by `time.perf_counter`.
    """

    def __init__(self, trainer: Trainer, run: Path, title: str, first: int, started: float) -> None:
        self._trainer, self._config, self._datasets = trainer, trainer.config, trainer.datasets
        # Seconds that a step would take at the devices' peak; 0 where that is not known.
        self._at_peak: float | None = None
        self._rate = schedule(self._config.schedule, self._config.num_steps)
        self.clock = GoodputClock.resume(read_metrics(run), first, started)
        is_first = jax.process_index() == 0
        self._writer = MetricWriter(run, first, self._config.wandb) if is_first else None
        self.progress = TerminalProgress(title, self._config.num_steps, first, quiet=not is_first)
        self._pending: list[Mapping[str, jax.Array]] = []
        self._compiled = False

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.close()
        if self._writer is None:
            return
        if error is None:
            self._writer.close()
        else:
            close_or_warn(self._writer.close)

    def next_batch(self, batches: Iterator[Batch]) -> Batch:
        """Takes a batch. It is a wait for data as far as the device had nothing else to do."""
        if len(self._pending) >= _AHEAD:
            jax.block_until_ready(self._pending[-_AHEAD]["loss"])
        start = time.perf_counter()
        batch = next(batches)
        if not self._pending or self._pending[-1]["loss"].is_ready():
            self.clock.add(DATA_WAIT, time.perf_counter() - start)
        return batch

    @contextlib.contextmanager
    def first_call(self) -> Iterator[None]:
        """Around every call of the step: the first one compiles, which is no part of a step's time."""
        start = time.perf_counter()
        yield
        if not self._compiled:
            self.clock.add(COMPILE, time.perf_counter() - start)
            self._compiled = True

    def add(self, step: int, batch: DeviceBatch, metrics: Mapping[str, jax.Array]) -> None:
        """Takes over a step's metrics, which stay on the device until they are reported."""
        if self._at_peak is None:
            self._at_peak = _seconds_at_peak(self._trainer, batch)
        self._pending.append(metrics)
        self.progress.advance(step)

    def report(self, step: int, evaluated: Mapping[str, float]) -> None:
        """Reports the steps since the last report, and what was evaluated after `step`.

        Raises:
          Owl2Error: too many steps in a row were not finite.
        """
        fetched = jax.device_get(self._pending)
        self._pending = []
        seconds, shares = self.clock.read()
        values = {
            **_means(fetched),
            "learning_rate": float(self._rate(max(step - 1 - int(fetched[-1]["skipped"]), 0))),
            "skipped_steps": int(fetched[-1]["skipped"]),
            **_speed(fetched, seconds, self._at_peak or 0.0),
            **shares,
            **_by_class(fetched, self._datasets),
            **evaluated,
        }
        if self._writer is not None:
            self._writer.write(step, values)
        self.progress.report(step, values)
        self._check_finite(step, max(int(metrics["bad_steps"]) for metrics in fetched))

    def flush(self) -> None:
        """Has all readings so far on the disk or in the bucket, where a step that is saved needs its own."""
        if self._writer is not None:
            self._writer.flush()

    def _check_finite(self, step: int, bad: int) -> None:
        if bad >= self._config.max_bad_steps:
            raise Owl2Error(
                f"step {step}: loss or gradient was not finite for {bad} steps in a row (train.max_bad_steps "
                f"is {self._config.max_bad_steps}); lower the learning rate, or look at these steps' batches"
            )


def _means(fetched: list[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the steps that were finite; NaN when none was."""
    good = [metrics for metrics in fetched if not metrics["bad_steps"]]
    names = ("loss", "accuracy", "grad_norm")
    return {name: float(np.mean([m[name] for m in good])) if good else float("nan") for name in names}


def _seconds_at_peak(trainer: Trainer, batch: DeviceBatch) -> float:
    chip = chip_of(trainer.mesh.devices.flat[0])
    return 0.0 if chip is None else trainer.step_flops(batch) / (chip.flops * trainer.mesh.size)


def _speed(fetched: list[Mapping[str, Any]], seconds: float, at_peak: float) -> dict[str, float]:
    totals = {name: sum(int(metrics[name]) for metrics in fetched) for name in _COUNTS}
    rates = {f"{name}_per_second": totals[name] / seconds for name in ("tokens", "samples", "images")}
    return {
        "seconds_per_step": seconds / len(fetched),
        **rates,
        **({"mfu": at_peak * len(fetched) / seconds} if at_peak else {}),
        "packing_efficiency": totals["tokens"] / totals["positions"],
    }


def _by_class(fetched: list[Mapping[str, Any]], datasets: tuple[str, ...]) -> dict[str, float]:
    """Loss and accuracy of every data set, and of samples with and without images."""
    if not datasets:
        return {}
    finite = [m["classes"] for m in fetched if not m["bad_steps"]]
    sums = np.sum(finite, axis=0, dtype=np.float64).reshape(-1, 2, 3) if finite else None
    if sums is None:
        return {}
    rows = dict(zip(datasets, sums.sum(axis=1), strict=True))
    rows |= dict(zip(("without_images", "with_images"), sums.sum(axis=0), strict=True))
    values = {}
    for name, (loss, correct, count) in rows.items():
        if count:
            values |= {f"loss/{name}": loss / count, f"accuracy/{name}": correct / count}
    return {name: float(value) for name, value in values.items()}
