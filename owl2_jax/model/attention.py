"""Attention: masks and the product written out, which every kernel must agree with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
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


def cache_mask(positions: Array, cache_length: int) -> Array:
    """True where a query may look in a cache whose index is the position.

    Args:
      positions: int32[B, T] positions of the queries.
      cache_length: S.

    Returns:
      bool[B, T, S]: cache positions up to and including the query's own.
    """
    return jnp.arange(cache_length) <= positions[:, :, None]


def dot_product(q: Array, k: Array, v: Array, mask: Array | None) -> tuple[Array, Array]:
    """Softmax attention written out; every kernel must agree with it.

    Args:
      q: dtype[B, T, N, H]. k, v: dtype[B, S, K, H], N a multiple of K.
      mask: bool[B, T, S], or None to look everywhere.

    Returns:
      context dtype[B, T, N, H] and probabilities float32[B, N, T, S].
    """
    return _heads_first_product(q, k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3), mask)


def cache_product(q: Array, keys: Array, values: Array, layer: Array, mask: Array) -> tuple[Array, Array]:
    """`dot_product` over one layer of a cache.

    Args:
      q: dtype[B, T, N, H].
      keys, values: dtype[L, B, K, S, H].
      layer: int32[].
      mask: bool[B, T, S].
    """

    def read(q: Array, keys: Array, values: Array) -> tuple[Array, Array]:
        return _heads_first_product(q, keys[layer], values[layer], mask)

    def read_on_cpu(q: Array, keys: Array, values: Array) -> tuple[Array, Array]:
        softmax = _short_softmax_on_cpu if q.shape[1] == 1 else jax.nn.softmax
        return _heads_first_product(q, keys[layer], values[layer], mask, softmax)

    def read_in_place(q: Array, keys: Array, values: Array) -> tuple[Array, Array]:
        # XLA for CPUs would fuse the cache's update into its reader, and for that copy the cache
        # at every step. Nothing is fused into a branch; position 0 is always seen, so it is taken.
        shapes = jax.eval_shape(read, q, keys, values)
        nothing = jax.tree.map(jnp.zeros_like, shapes)
        return lax.cond(mask[0, 0, 0], read_on_cpu, lambda *_: nothing, q, keys, values)

    return lax.platform_dependent(q, keys, values, cpu=read_in_place, default=read)


def _short_softmax_on_cpu(scores: Array) -> Array:
    """`jax.nn.softmax` over the last axis, float32[..., S], for one token at a time.

    XLA for CPUs hands maxima and sums to a library that wakes its threads for
    each of them, which takes longer than a few thousand numbers do. It does not
    know a maximum that is spelled out, nor takes a product for a sum.
    """
    last = scores.ndim - 1
    greatest = lax.reduce(scores, np.float32(-np.inf), lambda a, b: jnp.where(a > b, a, b), (last,))
    powers = jnp.exp(scores - greatest[..., None])
    total = powers @ jnp.ones(scores.shape[-1:], jnp.float32)
    return powers / total[..., None]


def _heads_first_product(
    q: Array, k: Array, v: Array, mask: Array | None, softmax: Callable[[Array], Array] = jax.nn.softmax
) -> tuple[Array, Array]:
    """`dot_product` for k, v dtype[B, K, S, H]: both products are plain batched ones, without copies."""
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
    probabilities = softmax(scores)
    weights = probabilities.astype(v.dtype).reshape(batch, kv_heads, groups * length, keys)
    context = jnp.einsum("bkts,bksh->bkth", weights, v)
    context = context.reshape(batch, heads, length, width).transpose(0, 2, 1, 3)
    return context, probabilities.reshape(batch, heads, length, keys)
