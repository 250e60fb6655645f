"""Parameter groups: which leaf trains, at which rate, with which decay.

A run prints this as a table before its first step, and the table is the truth:
the optimiser is built from the same object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from owl2_jax.core import tree
from owl2_jax.core.errors import Owl2Error
from owl2_jax.training.config import GroupConfig, TrainConfig

if TYPE_CHECKING:
    import jax

# Leaves under these names carry the layers of a tower on axis 0.
_STACKED = "/layers/"


@dataclass(frozen=True)
class ParamSpec:
    """How one leaf trains.

    Attributes:
      group: the group that took the leaf.
      lr_multiplier: of the schedule, a number or float32[L, 1, ...] for
        stacked leaves with layer-wise decay; None for a frozen leaf.
      weight_decay: decoupled weight decay.
    """

    group: GroupConfig
    lr_multiplier: float | np.ndarray | None
    weight_decay: float

    @property
    def trained(self) -> bool:
        """Whether the leaf trains."""
        return self.lr_multiplier is not None


def assign_groups(params: tree.Tree, config: TrainConfig) -> dict[str, ParamSpec]:
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
    specs = {name: _spec_of(name, leaf, groups[name], config) for name, leaf in flat.items()}
    for name, spec in specs.items():
        if spec.trained and np.issubdtype(flat[name].dtype, np.integer):
            raise Owl2Error(
                f"group {spec.group.name!r} trains {name}, which model.lora.base holds in int8; "
                "freeze it (trainable=False), or set model.lora.base to 'stored'"
            )
    if not any(spec.trained for spec in specs.values()):
        raise Owl2Error("every group is frozen (trainable=False): there is nothing to train")
    return specs


def _spec_of(name: str, leaf: jax.ShapeDtypeStruct, group: GroupConfig, config: TrainConfig) -> ParamSpec:
    stacked = _STACKED in f"/{name}"
    is_vector = len(leaf.shape) - stacked <= 1 or name.endswith("/bias")
    decay = config.optimizer.weight_decay if group.weight_decay is None else group.weight_decay
    if is_vector and not config.optimizer.decay_vectors:
        decay = 0.0
    return ParamSpec(group, _multiplier(leaf, group, stacked), decay)


def _multiplier(leaf: jax.ShapeDtypeStruct, group: GroupConfig, stacked: bool) -> float | np.ndarray | None:
    if not group.trainable:
        return None
    if group.layer_decay == 1.0:
        return group.lr_multiplier
    if not stacked:
        return group.lr_multiplier * group.layer_decay ** (group.depth + 1 if group.depth else 0)
    layers = leaf.shape[0]
    factors = group.lr_multiplier * group.layer_decay ** np.arange(layers, 0, -1, dtype=np.float64)
    return factors.astype(np.float32).reshape((layers,) + (1,) * (len(leaf.shape) - 1))


def trained_names(specs: Mapping[str, ParamSpec]) -> dict[str, bool]:
    """{leaf name: whether it trains}, for `tree.partition`."""
    return {name: spec.trained for name, spec in specs.items()}


def check_changes(
    before: Mapping[str, Any], after: Mapping[str, Any], specs: Mapping[str, ParamSpec], steps: int
) -> None:
    """Compares fingerprints: frozen groups must be what they were, trained ones must not.

    Args:
      before, after: {group: sum}, from `state.fingerprint`.
      steps: steps between the two, for the message.

    Raises:
      Owl2Error: a group that did not do what the table says.
    """
    trained = {spec.group.name: spec.trained for spec in specs.values()}
    for group, value in before.items():
        changed = int(after[group]) != int(value)
        if changed and not trained[group]:
            raise Owl2Error(f"frozen group {group!r} changed within {steps} steps; please report this")
        if trained[group] and not changed:
            raise Owl2Error(
                f"group {group!r} trains, but nothing in it changed within {steps} steps. Does the data use "
                "it (images for the vision encoder)? To leave it as it is, set its trainable to False"
            )


def table(params: tree.Tree, specs: Mapping[str, ParamSpec], config: TrainConfig) -> list[dict[str, Any]]:
    """One row per group: leaves, parameters, learning rates, decay, bytes of optimiser state."""
    flat = tree.flatten(params)
    rows = []
    for group in config.groups:
        members = {name: spec for name, spec in specs.items() if spec.group is group}
        count = sum(int(np.prod(flat[name].shape)) for name in members)
        rates = [np.asarray(spec.lr_multiplier) for spec in members.values() if spec.trained]
        peak = (group.schedule or config.schedule).peak_lr
        rows.append(
            {
                "group": group.name,
                "leaves": len(members),
                "parameters": count,
                "lr": (float(peak * min(r.min() for r in rates)), float(peak * max(r.max() for r in rates)))
                if rates
                else None,
                "weight_decay": max((spec.weight_decay for spec in members.values()), default=0.0),
                "state_bytes": count * config.optimizer.state_bytes if rates else 0,
            }
        )
    return rows
