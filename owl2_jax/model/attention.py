"""Attention: masks and the product written out, which every kernel must agree with."""

from __future__ import annotations

from typing import Final

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

# Finite, so that a row without any key gives numbers instead of NaN.
MASKED: Final = -1e30


def query_segments(segment_ids: Array) -> Array:
    """Segments as the queries see them: trailing padding looks at the segment before it.

    A row of softmax is then never empty, and padding positions compute what
    the released model computes there.

        segment_ids   1 1 2 2 0 0
        queries       1 1 2 2 2 2
        keys          1 1 2 2 0 0

    Args:
      segment_ids: int32[B, T], 0 for padding.

    Returns:
      int32[B, T].
    """
    return lax.cummax(segment_ids, axis=1)


def causal_segment_mask(queries: Array, keys: Array) -> Array:
    """True where a query may look: not ahead, and inside its own segment.

        segments 1 1 2 2      1 . . .
                              1 1 . .
                              . . 1 .
                              . . 1 1

    Args:
      queries: int32[B, T] segments of the queries.
      keys: int32[B, T] segments of the keys.

    Returns:
      bool[B, T, T].
    """
    length = queries.shape[1]
    causal = jnp.tri(length, dtype=bool)
    return causal & (queries[:, :, None] == keys[:, None, :])


def dot_product(q: Array, k: Array, v: Array, mask: Array | None) -> tuple[Array, Array]:
    """Softmax attention written out; every kernel must agree with it.

    Args:
      q: dtype[B, T, N, H]. k, v: dtype[B, S, K, H], N a multiple of K.
      mask: bool[B, T, S], or None to look everywhere.

    Returns:
      context dtype[B, T, N, H] and probabilities float32[B, N, T, S].
    """
    k, v = (part.transpose(0, 2, 1, 3) for part in (k, v))  # both products are then plain batched ones
    batch, length, heads, width = q.shape
    kv_heads, keys = k.shape[1:3]
    groups = heads // kv_heads
    q = q.reshape(batch, length, kv_heads, groups, width).transpose(0, 2, 3, 1, 4)
    q = q.reshape(batch, kv_heads, groups * length, width)
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bkth,bksh->bkts", q, k, preferred_element_type=wide) * width**-0.5
    scores = scores.reshape(batch, kv_heads, groups, length, keys)
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, MASKED)
    probabilities = jax.nn.softmax(scores)
    weights = probabilities.astype(v.dtype).reshape(batch, kv_heads, groups * length, keys)
    context = jnp.einsum("bkts,bksh->bkth", weights, v)
    context = context.reshape(batch, heads, length, width).transpose(0, 2, 1, 3)
    return context, probabilities.reshape(batch, heads, length, keys)
