"""Where images stand in a row, and what is read and written there.

An image occupies T_i = Q + 1 consecutive positions of its row, so one start
per image says everything; a start of T (past the end) marks an empty place.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

Array = jax.Array


def slot_starts(image_index: Array, image_starts: Array, length: int) -> Array:
    """Starts with empty places moved past the end, where reads are ignored and writes dropped.

    Args:
      image_index: int32[B, I], -1 for an empty place.
      image_starts: int32[B, I].
      length: T.

    Returns:
      int32[B, I].
    """
    return jnp.where(image_index < 0, length, image_starts)


def image_mask(starts: Array, length: int, span: int) -> Array:
    """Modality indicator: True at the positions of an image, its end token included.

    Args:
      starts: int32[B, I] from `slot_starts`.
      length: T.
      span: Q + 1.

    Returns:
      bool[B, T].
    """
    offset = jnp.arange(length)[None, :, None] - starts[:, None, :]
    return jnp.any((offset >= 0) & (offset < span), axis=-1)


def take_images(x: Array, starts: Array, span: int) -> Array:
    """Reads the image positions of x[B, T, ...] into [B, I, span, ...].

    Empty places read some positions of the row; `put_images` drops them again.
    """

    def row(values: Array, row_starts: Array) -> Array:
        return jax.vmap(lambda start: lax.dynamic_slice_in_dim(values, start, span))(row_starts)

    return jax.vmap(row)(x, starts)


def put_images(x: Array, starts: Array, values: Array) -> Array:
    """Writes values[B, I, span, D] over the image positions of x[B, T, D]; drops empty places."""

    def row(target: Array, row_starts: Array, update: Array) -> Array:
        numbers = lax.ScatterDimensionNumbers(
            update_window_dims=tuple(range(1, update.ndim)),
            inserted_window_dims=(),
            scatter_dims_to_operand_dims=(0,),
        )
        return lax.scatter(
            target,
            row_starts[:, None],
            update,
            numbers,
            unique_indices=True,  # images do not overlap; writes of empty places are dropped
            mode=lax.GatherScatterMode.FILL_OR_DROP,
        )

    return jax.vmap(row)(x, starts, values.astype(x.dtype))


def places(starts: Array, length: int, span: int, dtype: DTypeLike) -> Array:
    """The positions of images as numbers: dtype[B, T, I * span], 1 where a position is that of an image.

    `take_by_product` and `put_by_product` multiply by it, which is what a TPU does best; where it cuts and
    scatters, arrays are copied into another layout and back. What is finite times 1 plus zeros stays itself.
    """
    offset = jnp.arange(length)[:, None, None] - starts[:, None, :, None] == jnp.arange(span)
    return offset.reshape(starts.shape[0], length, -1).astype(dtype)


def take_by_product(x: Array, places: Array) -> Array:
    """`take_images` of x[B, T, D], as [B, I * span, D]; empty places read zeros."""
    return jnp.einsum("bts,btd->bsd", places, x, precision=lax.Precision.HIGHEST)


def put_by_product(x: Array, is_image: Array, places: Array, values: Array) -> Array:
    """`put_images` of values[B, I * span, D] over x[B, T, D], whose images bool[B, T] says."""
    put = jnp.einsum("bts,bsd->btd", places, values, precision=lax.Precision.HIGHEST)
    return jnp.where(is_image[:, :, None], put, x)
