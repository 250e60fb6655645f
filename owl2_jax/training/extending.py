"""A run whose length was changed: allowed where the steps that are done would have been the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from owl2_jax.core import fields
from owl2_jax.training.config import TrainConfig

LENGTH_FIELDS: Final = ("total_steps", "total_examples")


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

    import numpy as np

    from owl2_jax.training.optimizer import schedule  # brings JAX, which takes seconds

    steps = np.arange(done)
    for rule in (new.schedule, *(group.schedule for group in new.groups if group.schedule)):
        then, today = (np.asarray(schedule(rule, config.num_steps)(steps)) for config in (old, new))
        differ = np.flatnonzero(then != today)
        if len(differ):
            step = int(differ[0])
            return (
                f"{run} cannot be extended from {old.num_steps} to {new.num_steps} steps "
                "(train.total_steps): its learning rate falls along a cosine over the whole length, so step "
                f"{step + 1} of the {done} that are done had {then[step]:.3g} and would now have "
                f"{today[step]:.3g}. To train on, give another --workdir with train.start_from={run} and a "
                "schedule of its own; to finish it, give the old length. Only a constant rate "
                "(schedule.end_lr equal to peak_lr), or a run that is still warming up, can be extended"
            )
    return None
