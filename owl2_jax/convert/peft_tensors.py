"""Tensors out of a PEFT directory: which ones its settings want there, and our leaves from them."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

import numpy as np

from owl2_jax.checkpoint.param_files import check_fit
from owl2_jax.convert import buffers
from owl2_jax.convert.formats import format_of
from owl2_jax.convert.peft_files import CONFIG_FILE, Tensors
from owl2_jax.convert.peft_modules import Saved
from owl2_jax.convert.weight_names import Pair, pairs
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.model.config import Owl2Config


def saved_pairs(
    saved: Saved, config: Owl2Config, shapes: Mapping[str, tuple[int, ...]], adapter: str
) -> list[Pair]:
    """The tensors of the base that lie beside the adapters. Raises `Owl2Error` for a name of no module."""
    every = list(pairs([rule for rule in format_of(config).rules if rule.ours in shapes], shapes))
    for name in saved.names:
        if not any(Saved((name,)).holds(pair.theirs) for pair in every):
            parts = {part for pair in every for part in pair.theirs.split(".")[:-1] if not part.isdigit()}
            raise unknown_name(f"module in modules_to_save of {adapter}", name, parts)
    return [pair for pair in every if saved.holds(pair.theirs)]


def check_tensors(tensors: Tensors, listed: Sequence[Pair], config: Owl2Config, saved: Saved) -> None:
    """The file holds what the settings say; fixed tables of saved modules may be there, and must be right."""
    fixed = {name for name in buffers.buffer_shapes(config) if saved.holds(name)} & tensors.specs.keys()
    try:
        check_listed(tensors, listed, fixed)
    except Owl2Error as error:
        raise Owl2Error(
            f"{error}; which tensors it should have is said by target_modules, layers_to_transform and "
            f"modules_to_save of {CONFIG_FILE}"
        ) from error
    for name, expected in buffers.buffers(config) if fixed else ():
        if name in fixed:
            buffers.check_buffer(name, tensors.stored(name), expected, str(tensors.path))


def check_listed(tensors: Tensors, listed: Sequence[Pair], besides: Container[str] = ()) -> None:
    """Raises `Owl2Error` unless exactly those listed are there, and some of `besides`."""
    check_fit(
        {name: spec.shape for name, spec in tensors.specs.items() if name not in besides},
        {pair.theirs: pair.their_shape for pair in listed},
        str(tensors.path),
    )


def read_leaves(
    listed: Sequence[Pair],
    tensors: Tensors,
    shapes: Mapping[str, tuple[int, ...]],
    others: Callable[[str], np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Our leaves from their tensors.

    Args:
      others: {our path: the leaf that layers not listed are taken from}. Without it they get
        zeros. For adapters that means none: both matrices add nothing, and as the gradient of
        each has the other as a factor, never will.
    """
    leaves: dict[str, np.ndarray] = {}
    for pair in listed:
        tensor = tensors.read(pair.theirs)
        ours = pair.rule.op.to_ours(tensor if pair.rows is None else tensor[pair.rows], pair.shape)
        name = pair.rule.ours
        if pair.layer is None:
            leaves[name] = ours
            continue
        if name not in leaves:
            start = None if others is None else others(name)
            leaves[name] = np.zeros(shapes[name], np.float32) if start is None else start.astype(np.float32)
        leaves[name][pair.layer] = ours
    return leaves
