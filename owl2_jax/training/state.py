"""What a training run carries from step to step."""

from __future__ import annotations

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
import optax

from owl2_jax.core import tree
from owl2_jax.core.tree import Params
from owl2_jax.training.param_groups import ParamSpec, trained_names


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
    params: Params
    opt_state: optax.OptState
    bad_steps: jax.Array
    skipped: jax.Array


def create_state(
    params: Params, specs: dict[str, ParamSpec], optimizer: optax.GradientTransformation
) -> TrainState:
    """A state at step 0; the optimiser sees the trained leaves alone."""
    trained, _ = tree.partition(params, trained_names(specs))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(trained),
        bad_steps=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
    )


def fingerprint(state: TrainState, specs: Mapping[str, ParamSpec]) -> Params:
    """Sums over the bits of a state, which change when any bit does and are the same on every mesh.

    Returns:
      {"params": {group: uint32[]}, "rest": uint32[]}; groups without a leaf of
      their own are left out.
    """
    sums: dict[str, jax.Array] = {}
    for name, leaf in tree.flatten(state.params).items():
        group = specs[name].group.name
        sums[group] = sums.get(group, jnp.uint32(0)) + _sum_bits(leaf)
    rest = jax.tree.leaves(state.replace(params=None))
    return {"params": sums, "rest": sum(map(_sum_bits, rest), jnp.uint32(0))}


def _sum_bits(leaf: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
    return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)
