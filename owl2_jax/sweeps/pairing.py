"""Whether a seed means the same for two points: the same order of the data from the same start."""

from __future__ import annotations

from typing import Any, Final

from owl2_jax.sweeps.grid import Point, Run, Sweep

# What decides which record is read next. The sizes of rows and images are not in it: a batch may hold
# more or fewer samples at another point, of the same endless order.
_ORDER: Final = ("seed", "shards", "reading", "augment")


def unlike_base(sweep: Sweep, point: Point) -> tuple[str, ...]:
    """By which fields a point's runs read other data, or start elsewhere, than the base's.

    Resized copies of one checkpoint are one start. Seeds of such a point are
    still compared one by one, which stays right but takes less noise out.
    """
    seed = sweep.config.seeds[0]
    base, other = (_deciding(sweep, Run(one, seed)) for one in (sweep.base_point, point))
    return tuple(name for name, value in base.items() if other[name] != value)


def _deciding(sweep: Sweep, run: Run) -> dict[str, Any]:
    config = sweep.run_config(run)
    found = {f"data.{name}": getattr(config.data, name) for name in _ORDER}
    found["data.datasets"] = list(config.data.datasets.items())  # numbered in their order
    start = sweep.start_of(run) or config.train.start_from
    found["train.start_from"] = start
    # Random parameters of other shapes are others; a checkpoint is resized.
    found["model, from random parameters"] = config.model if start is None else None
    return found
