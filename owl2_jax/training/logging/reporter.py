"""What the steps of a window measured, as a reading: speed, losses, shares of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import jax
import numpy as np

from owl2_jax.core.append_file import close_or_warn
from owl2_jax.parallel.chips import chip_of
from owl2_jax.training.goodput import Window
from owl2_jax.training.logging.metrics import MetricWriter
from owl2_jax.training.logging.terminal import TerminalProgress
from owl2_jax.training.optimizer import schedule
from owl2_jax.training.step import DeviceBatch
from owl2_jax.training.step_window import StepMetrics
from owl2_jax.training.trainer import Trainer

_COUNTS: Final = ("tokens", "positions", "samples", "images")


class Reporter:
    """Writes and shows the readings of a run. Every process has one; the first writes.

    Args:
      run: the run directory.
      title: of the progress bar.
      first: the last step that is done.
    """

    def __init__(self, trainer: Trainer, run: Path, title: str, first: int) -> None:
        self._trainer, self._datasets = trainer, trainer.datasets
        config = trainer.config
        # Seconds that a step would take at the devices' peak; 0 where that is not known.
        self._at_peak: float | None = None
        self._rate = schedule(config.schedule, config.num_steps)
        is_first = jax.process_index() == 0
        self._writer = MetricWriter(run, first, config.wandb) if is_first else None
        self.progress = TerminalProgress(title, config.num_steps, first, quiet=not is_first)

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

    def advance(self, step: int, batch: DeviceBatch) -> None:
        """Shows that a step was taken; the first batch says how much work a step is."""
        if self._at_peak is None:
            self._at_peak = _seconds_at_peak(self._trainer, batch)
        self.progress.advance(step)

    def report(
        self, step: int, steps: Sequence[StepMetrics], window: Window, evaluated: Mapping[str, float]
    ) -> None:
        """Reports the steps since the last report, and what was evaluated after `step`.

        Args:
          steps: metrics of every one of them, on the host.
          window: the time that they took.
        """
        values = {
            **_means(steps),
            "learning_rate": float(self._rate(max(step - 1 - int(steps[-1]["skipped"]), 0))),
            "skipped_steps": int(steps[-1]["skipped"]),
            **_speed(steps, window.seconds, self._at_peak or 0.0),
            **window.shares,
            **_by_class(steps, self._datasets),
            **evaluated,
        }
        if self._writer is not None:
            self._writer.write(step, values)
        self.progress.report(step, values)

    def flush(self) -> None:
        """Has all readings so far on the disk or in the bucket, where a step that is saved needs its own."""
        if self._writer is not None:
            self._writer.flush()


def _means(steps: Sequence[StepMetrics]) -> dict[str, float]:
    """Means over the steps that were finite; NaN when none was."""
    good = [metrics for metrics in steps if not metrics["bad_steps"]]
    names = ("loss", "accuracy", "grad_norm")
    return {name: float(np.mean([m[name] for m in good])) if good else float("nan") for name in names}


def _seconds_at_peak(trainer: Trainer, batch: DeviceBatch) -> float:
    chip = chip_of(trainer.mesh.devices.flat[0])
    return 0.0 if chip is None else trainer.step_flops(batch) / (chip.flops * trainer.mesh.size)


def _speed(steps: Sequence[StepMetrics], seconds: float, at_peak: float) -> dict[str, float]:
    totals = {name: sum(int(metrics[name]) for metrics in steps) for name in _COUNTS}
    rates = {f"{name}_per_second": totals[name] / seconds for name in ("tokens", "samples", "images")}
    return {
        "seconds_per_step": seconds / len(steps),
        **rates,
        **({"mfu": at_peak * len(steps) / seconds} if at_peak else {}),
        "packing_efficiency": totals["tokens"] / totals["positions"],
    }


def _by_class(steps: Sequence[StepMetrics], datasets: tuple[str, ...]) -> dict[str, float]:
    """Loss and accuracy of every data set, and of samples with and without images."""
    if not datasets:
        return {}
    finite = [m["classes"] for m in steps if not m["bad_steps"]]
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
