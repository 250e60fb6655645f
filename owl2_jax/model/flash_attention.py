"""Flash attention for TPU over heads that lie side by side, as the products around it make them.

A step of its Pallas kernels computes whole rows of some heads (Dao et al. 2022, "FlashAttention"), so that
no head is ever moved by itself, nor a copy of a row made that has them apart:

    grid      rows x heads
    blocks    [T, H] out of dtype[B, T, N * H]

Queries and keys may be turned by the rotary embedding on the way, and their gradients back: what the
backward pass keeps are then the products themselves. `flash_kernels` computes, `flash_plan` says how much
of it at a time.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from owl2_jax.core.errors import Owl2Error
from owl2_jax.model import flash_kernels, remat
from owl2_jax.model.flash_plan import LANES, Angles, Spans, call, plan

Array = jax.Array

# Of a head's row, at most: it lies in fast memory whole, and so does what is made of it.
ROW_BYTES: Final = 2**20


def longest(head_dim: int, dtype: DTypeLike) -> int:
    """Tokens of a row of heads of this width, at most."""
    return ROW_BYTES // (max(head_dim, LANES) * jnp.dtype(dtype).itemsize)


def fits(length: int, head_dim: int, dtype: DTypeLike) -> bool:
    """Whether the kernels take rows of so many tokens, and heads of this width that have a register each."""
    return head_dim % LANES == 0 and length <= longest(head_dim, dtype)


def fits_narrow(length: int, heads: int, head_dim: int, dtype: DTypeLike) -> bool:
    """Whether they take so many heads of a device that share registers, each with keys of its own."""
    together = LANES % head_dim == 0 and heads * head_dim % LANES == 0
    return together and fits(length, LANES, dtype)


def causal_spans(segment_ids: Array) -> Spans:
    """Spans under `attention.causal_segment_mask`.

    Args:
      segment_ids: int32[B, T], 0 for padding, rising; a segment's tokens follow each other.

    Returns:
      int32[B, 1, T] twice.
    """
    places = jnp.broadcast_to(jnp.arange(segment_ids.shape[1], dtype=jnp.int32), segment_ids.shape)
    queries = lax.cummax(segment_ids, axis=1)
    starts = queries != jnp.pad(queries[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    first = lax.cummax(jnp.where(starts, places, 0), axis=1)
    last = lax.cummax(jnp.where(segment_ids == queries, places, 0), axis=1)
    return first[:, None], last[:, None]


def flash(
    q: Array, k: Array, v: Array, angles: Angles, spans: Spans, head_dim: int, interpret: bool = False
) -> Array:
    """Softmax attention, on one device.

    Args:
      q: dtype[B, T, N * H]. k, v: dtype[B, T, K * H], K a divisor of N.
      angles: the rotary embedding of queries and keys, float32[B, T, H] each, if any; not for narrow heads.
      spans: of causal attention, from `causal_spans`; without, all see all. Every query sees a key.
      head_dim: H.
      interpret: run the kernels' program without a TPU, slowly.

    Returns:
      dtype[B, T, N * H].

    Raises:
      Owl2Error: heads that are not whole, or that neither have registers of their own nor fill them.
    """
    queries, keys = q.shape[-1], k.shape[-1]
    whole = queries % head_dim == keys % head_dim == 0 < keys and queries % keys == 0
    narrow = not angles and queries == keys and fits_narrow(q.shape[1], keys // head_dim, head_dim, q.dtype)
    if not whole or not (fits(q.shape[1], head_dim, q.dtype) or narrow):
        raise Owl2Error(
            f"flash attention on one device takes heads of a multiple of {LANES} channels, or as many narrow "
            "ones without angles as fill that, in rows of at most "
            f"{longest(head_dim, q.dtype)} tokens; found {queries} channels of queries and {keys} of keys in "
            f"heads of {head_dim}, and {q.shape[1]} tokens of {q.dtype}; set model.attention=xla"
        )
    return _flash(q, k, v, angles, spans, head_dim, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _flash(
    q: Array, k: Array, v: Array, angles: Angles, spans: Spans, head_dim: int, interpret: bool
) -> Array:
    return _forward(q, k, v, angles, spans, head_dim, interpret)[0]


def _forward(
    q: Array, k: Array, v: Array, angles: Angles, spans: Spans, head_dim: int, interpret: bool
) -> tuple[Array, tuple[Any, ...]]:
    sizes = plan(q, k, head_dim, is_causal=bool(spans))
    queries, keys, sums = sizes.queries(), sizes.keys(), sizes.sums()
    log_sums = jax.ShapeDtypeStruct((len(q), q.shape[-1] // head_dim, 1, sizes.padded), jnp.float32)
    context, log_sums = call(
        flash_kernels.forward, sizes, "flash_forward", interpret,
        in_specs=(*sizes.given(angles, spans), queries, keys, keys),
        out_specs=(queries, sums),
        out_shape=(_like(q), log_sums),
        scratch={"turned_keys": (sizes.rows_of_group, q.dtype)},
    )(angles, spans, q, k, v)  # fmt: skip
    # Policies that keep the context then keep all that the backward kernel needs.
    context, log_sums = (checkpoint_name(x, remat.CONTEXT) for x in (context, log_sums))
    return context, (angles, spans, q, k, v, context, log_sums)


def _backward(
    head_dim: int, interpret: bool, kept: tuple[Any, ...], gradient: Array
) -> tuple[Array, Array, Array, None, None]:
    angles, spans, q, k, v, *_ = kept
    sizes = plan(q, k, head_dim, is_causal=bool(spans))
    queries, keys, sums = sizes.queries(), sizes.keys(), sizes.sums()
    wide, rows = jnp.float32, sizes.rows_of_group
    dq, dk, dv = call(
        flash_kernels.backward, sizes, "flash_backward", interpret,
        in_specs=(*sizes.given(angles, spans), queries, keys, keys, queries, sums, queries),
        out_specs=(queries, keys, keys),
        out_shape=(_like(q), _like(k), _like(v)),
        scratch={
            "turned_keys": (rows, q.dtype), "turned_queries": (rows, q.dtype),
            "of_queries": (rows[::-1], wide), "of_keys": ((sizes.padded, sizes.width), wide),
            "of_values": ((sizes.padded, sizes.width), wide), "mixed": ((1, sizes.padded), wide),
        },
    )(*kept, gradient)  # fmt: skip
    return dq, dk, dv, None, None


_flash.defvjp(_forward, _backward)


def _like(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)
