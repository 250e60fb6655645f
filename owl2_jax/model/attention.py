"""Attention: masks and the product written out, which every kernel must agree with."""

from __future__ import annotations

import functools
from typing import Final

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

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


def dot_product(
    q: Array, k: Array, v: Array, mask: Array | None, name: str | None = None
) -> tuple[Array, Array]:
    """Softmax attention written out; every kernel must agree with it.

    Args:
      q: dtype[B, T, N, H]. k, v: dtype[B, S, K, H], N a multiple of K.
      mask: bool[B, T, S], or None to look everywhere.
      name: of the context for a remat policy, see `owl2_jax.model.remat`; the backward pass reads it.

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
    context = _mix(scores, v, name)
    return context, jax.nn.softmax(scores).reshape(batch, heads, length, keys)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _mix(scores: Array, v: Array, name: str | None) -> Array:
    """Values dtype[B, K, S, H] mixed by the softmax of scores float32[B, K, G, T, S]: dtype[B, T, K * G, H].

    The gradient of a softmax needs, of every row, the sum of probabilities times their gradients. That is
    the row's context times its own gradient (Dao et al. 2022, appendix B.4): H numbers to read instead of
    2 S.
    """
    return _mix_forward(scores, v, name)[0]


def _mix_forward(scores: Array, v: Array, name: str | None) -> tuple[Array, tuple[Array, Array, Array]]:
    batch, kv_heads, groups, length, keys = scores.shape
    probabilities = jax.nn.softmax(scores)
    weights = probabilities.astype(v.dtype).reshape(batch, kv_heads, groups * length, keys)
    context = jnp.einsum("bkts,bksh->bkth", weights, v)
    context = context.reshape(batch, kv_heads * groups, length, -1).transpose(0, 2, 1, 3)
    if name is not None:
        context = checkpoint_name(context, name)
    return context, (probabilities, v, context)


def _mix_backward(name: str | None, kept: tuple[Array, Array, Array], gradient: Array) -> tuple[Array, Array]:
    del name
    probabilities, v, context = kept
    batch, kv_heads, groups, length, keys = probabilities.shape
    wide = probabilities.dtype
    sums = jnp.sum(context.astype(wide) * gradient.astype(wide), axis=-1).transpose(0, 2, 1)
    gradient = gradient.transpose(0, 2, 1, 3).reshape(batch, kv_heads, groups * length, -1)
    weights = probabilities.astype(v.dtype).reshape(batch, kv_heads, groups * length, keys)
    values = jnp.einsum("bkts,bkth->bksh", weights, gradient)
    mixed = jnp.einsum("bkth,bksh->bkts", gradient, v).reshape(probabilities.shape)
    scores = probabilities * (mixed.astype(wide) - sums.reshape(*probabilities.shape[:-1], 1))
    return scores, values


_mix.defvjp(_mix_forward, _mix_backward)
