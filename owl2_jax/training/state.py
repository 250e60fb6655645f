"""What a training run carries from step to step."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from owl2_jax.core import tree
from owl2_jax.training.groups import LeafPlan, trained_names


@flax.struct.dataclass
class TrainState:
    """Everything a step reads and writes.

    Attributes:
      step: int32[], steps taken.
      params: the whole parameter tree, frozen leaves included.
      opt_state: optimiser state of the trained leaves.
      bad_steps: int32[], non-finite steps in a row, skipped.
      skipped: int32[], non-finite steps of the whole run.
    """

    step: jax.Array
    params: Any
    opt_state: optax.OptState
    bad_steps: jax.Array
    skipped: jax.Array


def create_state(
    params: dict[str, Any], plans: dict[str, LeafPlan], optimizer: optax.GradientTransformation
) -> TrainState:
    """A state at step 0; the optimiser sees the trained leaves alone."""
    trained, _ = tree.partition(params, trained_names(plans))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(trained),
        bad_steps=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
    )
