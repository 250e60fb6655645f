"""A run whose length was changed: allowed where the steps that are done would have been the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from owl2_jax.core import fields
from owl2_jax.training.config import ScheduleConfig, TrainConfig

LENGTH_FIELDS: Final = ("total_steps", "total_examples")
_CLEAR: Final = 1e-5  # of the peak; rates that differ by more differ in float32, too


def why_not_extended(run: Path, before: Mapping[str, Any], now: Mapping[str, Any], done: int) -> str | None:
    """Says why a run cannot go on with another length; None when it can.

    Args:
      before, now: the "train" group of both configs as JSON types, which differ in `LENGTH_FIELDS` alone.
      done: steps that are saved.
    """
    old, new = (fields.from_dict(TrainConfig, dict(values)) for values in (before, now))
    if new.num_steps < done:
        return (
            f"{run} has {done} steps saved, more than the {new.num_steps} of train.total_steps now; give at "
            "least as many, or another --workdir"
        )

    for rule in (new.schedule, *(group.schedule for group in new.groups if group.schedule)):
        step = _first_change(rule, old.num_steps, new.num_steps, done)
        if step is not None:
            then, today = (_rates(rule, config.num_steps, np.array([step]))[0] for config in (old, new))
            return (
                f"{run} cannot be extended from {old.num_steps} to {new.num_steps} steps "
                "(train.total_steps): its learning rate falls along a cosine over the whole length, so step "
                f"{step + 1} of the {done} that are done had {then:.3g} and would now have {today:.3g}. To "
                f"train on, give another --workdir with train.start_from={run} and a schedule of its own; to "
                "finish it, give the old length. Only a constant rate (schedule.end_lr equal to peak_lr), or "
                "a run that is still warming up, can be extended"
            )
    return None


def _first_change(rule: ScheduleConfig, old: int, new: int, done: int) -> int | None:
    """The first of the steps 0 to `done` - 1 whose rate is another one at another length; None for none."""
    steps = np.arange(done)
    then, today = (_rates(rule, length, steps) for length in (old, new))
    differ = np.abs(then - today)
    clear = np.flatnonzero(differ > _CLEAR * rule.peak_lr)
    if len(clear):
        return int(clear[0])
    if not differ.any():
        return None

    from owl2_jax.training.optimizer import schedule  # brings JAX, which takes seconds

    exact = [np.asarray(schedule(rule, length)(steps)) for length in (old, new)]
    return next(iter(np.flatnonzero(exact[0] != exact[1]).tolist()), None)


def _rates(rule: ScheduleConfig, num_steps: int, steps: np.ndarray) -> np.ndarray:
    """`optimizer.schedule` without JAX and in float64: float64[N] of the step numbers int[N]."""
    warmup = min(rule.warmup_steps, num_steps)
    length = max(num_steps, warmup + 1) - warmup
    after = np.clip(steps - warmup, 0, length)
    cosine = (1 + np.cos(np.pi * after / length)) / 2
    falling = rule.end_lr + (rule.peak_lr - rule.end_lr) * cosine
    return np.where(steps < warmup, rule.peak_lr * steps / max(warmup, 1), falling)
