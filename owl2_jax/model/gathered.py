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

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.sharding import PartitionSpec

from owl2_jax.core import axes

Array = jax.Array


def is_gathered(rows: Sequence[int], names: Sequence[str | None]) -> bool:
    """Whether a weight lies in pieces along the very axis that cuts these rows.

    Where rows are cut along other axes as well, the compiler infers the sums.

    Args:
      rows: leading sizes of the activations; the first is cut over the batch axes.
      names: one logical axis name per dimension of the weight.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not nn.get_logical_axis_rules() or not rows:
        return False
    cutting = _batch_axes()
    ways = math.prod(mesh.shape[axis] for axis in cutting)
    pieces = tuple(axis for _, axis in _gathered_axes(names))
    return bool(cutting) and rows[0] % ways == 0 and cutting == pieces


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
            weight = _gather(weight, dimension, axis)
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(weight: Array, dimension: int, axis: str) -> Array:
    """The whole of a weight along a dimension, from its pieces along a mesh axis."""
    return lax.all_gather(weight, axis, axis=dimension, tiled=True)


def _gather_forward(weight: Array, dimension: int, axis: str) -> tuple[Array, None]:
    return _gather(weight, dimension, axis), None


def _gather_backward(dimension: int, axis: str, _: None, gradient: Array) -> tuple[Array]:
    def cut(gradient: Array) -> Array:
        return lax.psum_scatter(gradient, axis, scatter_dimension=dimension, tiled=True)

    def cut_wide(gradient: Array) -> Array:
        # XLA for CPUs dies of sums of 16-bit numbers.
        return cut(gradient.astype(jnp.promote_types(gradient.dtype, jnp.float32))).astype(gradient.dtype)

    return (lax.platform_dependent(gradient, cpu=cut_wide, default=cut),)


_gather.defvjp(_gather_forward, _gather_backward)


def _batch_axes() -> tuple[str, ...]:
    """Mesh axes that cut the rows of a batch, without those of one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(axis for axis in _names(nn.logical_to_mesh_axes((axes.BATCH,))[0]) if mesh.shape[axis] > 1)


def _gathered_axes(names: Sequence[str | None]) -> list[tuple[int, str]]:
    """(dimension, mesh axis) along which a weight is stored in pieces but used whole."""
    stored = nn.logical_to_mesh_axes(axes.stored(tuple(names)))
    used = nn.logical_to_mesh_axes(tuple(names))
    return [
        (dimension, axis)
        for dimension, (at_rest, in_use) in enumerate(zip(stored, used, strict=True))
        for axis in _names(at_rest)
        if axis not in _names(in_use) and jax.sharding.get_abstract_mesh().shape[axis] > 1
    ]


def _names(entry: Any) -> tuple[str, ...]:
    """An entry of a `PartitionSpec` as a tuple."""
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)
