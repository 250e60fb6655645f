"""Parameter groups: which leaf trains, at which rate, with which decay.

A run prints this as a table before its first step, and the table is the truth:
the optimiser is built from the same object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from owl2_jax.core import tree
from owl2_jax.core.errors import Owl2Error
from owl2_jax.training.config import GroupConfig, TrainConfig

if TYPE_CHECKING:
    from owl2_jax.training.state import TrainState

# Leaves under these names carry the layers of a tower on axis 0.
_STACKED = "/layers/"


@dataclass(frozen=True)
class LeafPlan:
    """How one leaf trains.

    Attributes:
      group: the group that took the leaf.
      lr: multiplier of the schedule, a number or float32[L, 1, ...] for
        stacked leaves with layer-wise decay; None for a frozen leaf.
      weight_decay: decoupled weight decay.
    """

    group: GroupConfig
    lr: float | np.ndarray | None
    weight_decay: float

    @property
    def trained(self) -> bool:
        return self.lr is not None


def plan_leaves(params: tree.Tree, config: TrainConfig) -> dict[str, LeafPlan]:
    """Assigns every leaf of `params` (arrays or shapes) to the first group that matches its name.

    Raises:
      Owl2Error: a leaf no group matches, a group no leaf matches, two groups
        of one name, or a run that trains nothing.
    """
    names = [group.name for group in config.groups]
    if len(set(names)) < len(names):
        raise Owl2Error(f"groups must have different names, found {names}")
    flat = tree.flatten(params)
    groups = tree.match_rules(flat, [(group.pattern, group) for group in config.groups])
    plans = {name: _plan_leaf(name, leaf, groups[name], config) for name, leaf in flat.items()}
    for name, plan in plans.items():
        if plan.trained and np.issubdtype(flat[name].dtype, np.integer):
            raise Owl2Error(
                f"group {plan.group.name!r} trains {name}, which model.lora.base holds in int8; "
                "freeze it (lr=None), or set model.lora.base to 'stored'"
            )
    if not any(plan.trained for plan in plans.values()):
        raise Owl2Error("every group is frozen (lr=None): there is nothing to train")
    return plans


def _plan_leaf(name: str, leaf: Any, group: GroupConfig, config: TrainConfig) -> LeafPlan:
    stacked = _STACKED in f"/{name}"
    is_vector = len(leaf.shape) - stacked <= 1 or name.endswith("/bias")
    decay = config.optimizer.weight_decay if group.weight_decay is None else group.weight_decay
    if is_vector and not config.optimizer.decay_vectors:
        decay = 0.0
    return LeafPlan(group, _multiplier(leaf, group, stacked), decay)


def _multiplier(leaf: Any, group: GroupConfig, stacked: bool) -> float | np.ndarray | None:
    if group.lr is None or group.layer_decay == 1.0:
        return group.lr
    if not stacked:
        return group.lr * group.layer_decay ** (group.depth + 1 if group.depth else 0)
    layers = leaf.shape[0]
    factors = group.lr * group.layer_decay ** np.arange(layers, 0, -1, dtype=np.float64)
    return factors.astype(np.float32).reshape((layers,) + (1,) * (len(leaf.shape) - 1))


def trained_names(plans: Mapping[str, LeafPlan]) -> dict[str, bool]:
    """{leaf name: whether it trains}, for `tree.partition`."""
    return {name: plan.trained for name, plan in plans.items()}


def fingerprint(state: TrainState, plans: Mapping[str, LeafPlan]) -> dict[str, Any]:
    """Sums over the bits of a state, which change when any bit does and are the same on every mesh.

    Returns:
      {"params": {group: uint32[]}, "rest": uint32[]}; groups without a leaf of
      their own are left out.
    """
    sums: dict[str, jax.Array] = {}
    for name, leaf in tree.flatten(state.params).items():
        group = plans[name].group.name
        sums[group] = sums.get(group, jnp.uint32(0)) + _sum_bits(leaf)
    rest = jax.tree.leaves(state.replace(params=None))
    return {"params": sums, "rest": sum(map(_sum_bits, rest), jnp.uint32(0))}


def _sum_bits(leaf: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
    return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)


def check_changes(
    before: Mapping[str, Any], after: Mapping[str, Any], plans: Mapping[str, LeafPlan], steps: int
) -> None:
    """Compares fingerprints: frozen groups must be what they were, trained ones must not.

    Args:
      before, after: {group: sum}, from `fingerprint`.
      steps: steps between the two, for the message.

    Raises:
      Owl2Error: a group that did not do what the table says.
    """
    trained = {plan.group.name: plan.trained for plan in plans.values()}
    for group, value in before.items():
        changed = int(after[group]) != int(value)
        if changed and not trained[group]:
            raise Owl2Error(f"frozen group {group!r} changed within {steps} steps; please report this")
        if trained[group] and not changed:
            raise Owl2Error(
                f"group {group!r} trains, but nothing in it changed within {steps} steps. Does the data use "
                "it (pictures for the vision encoder)? If it shall stay as it is, set its lr to None"
            )


def table(params: tree.Tree, plans: Mapping[str, LeafPlan], config: TrainConfig) -> list[dict[str, Any]]:
    """One row per group: leaves, parameters, learning rates, decay, bytes of optimiser state."""
    flat = tree.flatten(params)
    first_moment = 2 if config.optimizer.first_moment_dtype == "bfloat16" else 4
    rows = []
    for group in config.groups:
        members = {name: plan for name, plan in plans.items() if plan.group is group}
        count = sum(int(np.prod(flat[name].shape)) for name in members)
        rates = [np.asarray(plan.lr) for plan in members.values() if plan.lr is not None]
        peak = (group.schedule or config.schedule).peak_lr
        rows.append(
            {
                "group": group.name,
                "leaves": len(members),
                "parameters": count,
                "lr": (float(peak * min(r.min() for r in rates)), float(peak * max(r.max() for r in rates)))
                if rates
                else None,
                "weight_decay": max((plan.weight_decay for plan in members.values()), default=0.0),
                "state_bytes": count * (first_moment + 4) if rates else 0,
            }
        )
    return rows
