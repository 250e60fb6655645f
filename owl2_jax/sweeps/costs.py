"""What a point costs, from arithmetic alone: FLOPs of a step, bytes of the state, tokens of an image."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from owl2_jax.config import RunConfig
from owl2_jax.core import tree
from owl2_jax.core.errors import Owl2Error
from owl2_jax.model import flops
from owl2_jax.model.owl2 import abstract_params
from owl2_jax.sweeps.grid import Run, Sweep

_GIB = 2.0**30


@dataclass(frozen=True)
class Machine:
    """What the runs will have.

    Attributes:
      name: for people, "v5e:16x16" or "this machine".
      devices: number of memories that the state can be spread over.
      memory: bytes of each.
    """

    name: str
    devices: int
    memory: float


def step_flops(config: RunConfig) -> float:
    """Model FLOPs of one training step, forward and backward, frozen groups left out."""
    model, data = config.model, config.data
    work = flops.batch_work(
        model, data.rows, data.row_length, data.images, data.images_per_row, data.max_targets
    )
    trained = _trained(config)
    return flops.total(flops.train_flops(model, work, trained)).model


def state_bytes(config: RunConfig) -> float:
    """Parameters, gradients and optimiser state: what training holds at the very least."""
    itemsize = np.dtype(config.model.param_dtype).itemsize
    moments = config.train.optimizer.state_bytes
    trained = _trained(config)
    total = 0.0
    for name, leaf in tree.flatten(abstract_params(config.model)).items():
        total += math.prod(leaf.shape) * (itemsize + trained(name) * (itemsize + moments))
    return total


def check_fits(sweep: Sweep, machine: Machine) -> None:
    """Raises `Owl2Error` for points whose state alone is more than the machine holds, with the arithmetic."""
    capacity = machine.devices * machine.memory
    known: dict[tuple[object, object], float] = {}
    for point in sweep.points:
        config = sweep.run_config(Run(point, sweep.config.seeds[0]))
        key = (config.model, config.train.groups)
        if key not in known:
            known[key] = state_bytes(config)
        if known[key] > capacity:
            raise Owl2Error(
                f"point {point.name} cannot fit: its parameters, gradients and optimiser state are "
                f"{known[key] / _GIB:.2f} GiB, {machine.name} has {machine.devices} x "
                f"{machine.memory / _GIB:.2f} = {capacity / _GIB:.2f} GiB; name a larger slice (topology of "
                "the sweep), freeze more groups, or leave the point out"
            )


def _trained(config: RunConfig) -> Callable[[str], bool]:
    """Whether the parameter of a name is in a group that trains; the first match counts."""
    groups = [(re.compile(group.pattern), group.trainable) for group in config.train.groups]
    return lambda name: next((trained for pattern, trained in groups if pattern.fullmatch(name)), False)
