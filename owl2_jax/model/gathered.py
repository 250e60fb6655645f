"""Products with weights that lie in pieces over a mesh.

Every device gathers the weight and multiplies its own rows; the weight's
gradient is summed and cut in one collective:

    y = x @ all_gather(w)       forward, and gathered again backward
    dw = reduce_scatter(x' dy)  a device receives the sum of its own piece alone

Left to infer this from where arrays lie, the TPU compiler sums whole gradients on
every device and then cuts them, which moves twice the bytes, and writes gathers
of narrow pieces as sums over zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn
from jax import lax
from jax.sharding import PartitionSpec

from owl2_jax.core import axes

Array = jax.Array


def is_gathered(rows: Sequence[int], names: Sequence[str | None]) -> bool:
    """Whether a weight lies in pieces that a product over these rows has to gather.

    Args:
      rows: leading sizes of the activations; the first is cut over the batch axes.
      names: one logical axis name per dimension of the weight.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not nn.get_logical_axis_rules() or not rows:
        return False
    ways = math.prod(mesh.shape[axis] for axis in _batch_axes())
    return rows[0] % ways == 0 and any(mesh.shape[axis] > 1 for _, axis in _gathered_axes(names))


def gathered_product(flat: Array, weight: Array, names: Sequence[str | None]) -> Array:
    """`flat @ weight` with the weight gathered where it is used, see `is_gathered`.

    Args:
      flat: dtype[R, fan_in], rows cut over the batch axes.
      weight: dtype[...], stored in pieces; its leading dimensions contract.
      names: one logical axis name per dimension of the weight.

    Returns:
      dtype[R, fan_out].
    """
    fan_in = flat.shape[1]
    pieces = _gathered_axes(names)

    def local(flat: Array, weight: Array) -> Array:
        for dimension, axis in pieces:
            weight = lax.all_gather(weight, axis, axis=dimension, tiled=True)
        return flat @ weight.reshape(fan_in, -1)

    cut: list[Any] = [None] * len(names)
    for dimension, axis in pieces:
        cut[dimension] = axis
    rows = PartitionSpec(_batch_axes(), None)
    manual = {*_batch_axes(), *(axis for _, axis in pieces)}
    product = jax.shard_map(
        local,
        in_specs=(rows, PartitionSpec(*cut)),
        out_specs=rows,
        axis_names=manual,
        check_vma=False,
    )
    return product(flat, weight)


def _batch_axes() -> tuple[str, ...]:
    """Mesh axes that cut the rows of a batch."""
    return _names(nn.logical_to_mesh_axes((axes.BATCH,))[0])


def _gathered_axes(names: Sequence[str | None]) -> list[tuple[int, str]]:
    """(dimension, mesh axis) along which a weight is stored in pieces but used whole."""
    stored = nn.logical_to_mesh_axes(axes.stored(tuple(names)))
    used = nn.logical_to_mesh_axes(tuple(names))
    return [
        (dimension, axis)
        for dimension, (at_rest, in_use) in enumerate(zip(stored, used, strict=True))
        for axis in _names(at_rest)
        if axis not in _names(in_use)
    ]


def _names(entry: Any) -> tuple[str, ...]:
    """An entry of a `PartitionSpec` as a tuple."""
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)
