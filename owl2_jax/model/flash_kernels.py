"""The two kernels of flash attention: the context, and the gradients of what it is made of.

Sums that a query needs of its scores lie along the lanes of a register, one number per query, as scores are
keys x queries. Of heads that share a register one at a time is computed, with zeros for the channels of the
others. Where a row ends within a tile, what is read beyond it is anything, and counts as zeros.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax import lax

from owl2_jax.model.attention import MASKED
from owl2_jax.model.flash_plan import Plan

Array = jax.Array

# Of queries so far: greatest scores and sums of exponentials, float32[1, queries], and values mixed by these,
# float32[lanes, queries].
Mixed = tuple[Array, Array, Array]

_PLAIN: Final = (((1,), (0,)), ((), ()))  # a b
ROWS_OF_BOTH: Final = (((1,), (1,)), ((), ()))  # a b^T
COLUMNS_OF_BOTH: Final = (((0,), (0,)), ((), ()))  # a^T b


def forward(
    plan: Plan, angles: Any, spans: Any, q: Any, k: Any, v: Any, out: Any, sums: Any, turned_keys: Any
) -> None:
    """Writes the context of a block's queries, and the logarithms of the softmax's sums.

    Blocks are of one row, of P = `plan.padded` tokens and W = `plan.width` channels of whole heads.

    Args:
      angles: float32[P, H] each, or none. spans: int32[1, P] each, or none.
      q, k, v: dtype[P, W], as products made them.
      out: dtype[P, W]. sums: float32[heads of W, 1, P]. Both are written.
      turned_keys: dtype[P, G] of one group of `plan.groups`, G channels, at a time.
    """
    whole = slice(0, plan.padded)
    for lanes, heads in plan.groups:
        turned_keys[...] = _read(plan, k, whole, lanes, angles)
        for tile, rows in enumerate(plan.tiles):
            queries = _read(plan, q, rows, lanes, angles, plan.head_dim**-0.5)
            mixed = []
            for head, own in heads:
                values, sums[head, :, rows] = _mix(
                    plan, spans, tile, _only(queries, own), turned_keys, v, lanes
                )
                mixed.append(values[own])
            out[rows, lanes] = jnp.concatenate(mixed).T.astype(out.dtype)


def _mix(
    plan: Plan, spans: Any, tile: int, queries: Array, turned_keys: Any, v: Any, lanes: slice
) -> tuple[Array, Array]:
    """Values mixed for a tile of one head's queries, [lanes, tile], and logarithms of its sums, [1, tile]."""

    def add(step: Any, carry: Mixed) -> Mixed:
        keys = plan.rows(step)
        scores = multiply(turned_keys[keys, :], queries, ROWS_OF_BOTH)
        scores = _where_seen(plan, spans, step, plan.tiles[tile], scores, MASKED)
        return mix(carry, scores, _read(plan, v, keys, lanes))

    # A tile of which a query sees nothing adds ones before the first key that it sees, whose score
    # wipes them out, and zeros after that.
    seen = range(tile + 1 if plan.is_causal else len(plan.tiles))
    most, total, mixed = plan.each(seen, add, nothing(plan.group, plan.tile))
    return mixed / total, most + jnp.log(total)


def nothing(lanes: int, queries: int) -> Mixed:
    """Of no keys yet."""
    most, total = jnp.full((1, queries), MASKED, jnp.float32), jnp.zeros((1, queries), jnp.float32)
    return most, total, jnp.zeros((lanes, queries), jnp.float32)


def mix(carry: Mixed, scores: Array, values: Array) -> Mixed:
    """Adds a tile of keys.

    Args:
      scores: float32[keys, queries]. values: dtype[keys, lanes].
    """
    most, total, mixed = carry
    higher = jnp.maximum(most, scores.max(axis=0, keepdims=True))
    weights, old = jnp.exp(scores - higher), jnp.exp(most - higher)
    more = multiply(values, weights.astype(values.dtype), COLUMNS_OF_BOTH)
    return higher, total * old + weights.sum(axis=0, keepdims=True), mixed * old + more


def backward(
    plan: Plan, angles: Any, spans: Any, q: Any, k: Any, v: Any, context: Any, sums: Any, gradient: Any,
    dq: Any, dk: Any, dv: Any, turned_keys: Any, turned_queries: Any, of_queries: Any, of_keys: Any,
    of_values: Any, mixed: Any,
) -> None:  # fmt: skip
    """Writes the gradients of a block's queries; of its keys and values after their last block of queries.

    Args:
      angles, spans, q, k, v: as `forward` takes them. context, sums: as it wrote them.
      gradient: of the context, dtype[P, W].
      dq, dk, dv: dtype[P, W], which are written.
      turned_keys, turned_queries: dtype[P, G] of one group and, of queries, one head at a time.
      of_queries: float32[G, P], what is added to so far. of_keys, of_values: the same, float32[P, W].
      mixed: float32[1, P], per query the sum of its probabilities times their gradients.
    """
    from jax.experimental import pallas as pl

    whole = slice(0, plan.padded)
    among_queries = pl.program_id(2)

    @pl.when(among_queries == 0)
    def _() -> None:
        of_keys[...] = jnp.zeros_like(of_keys)
        of_values[...] = jnp.zeros_like(of_values)

    for lanes, heads in plan.groups:
        turned_keys[...] = _read(plan, k, whole, lanes, angles)
        of_queries[...] = jnp.zeros_like(of_queries)
        for head, own in heads:
            for rows in plan.tiles:
                queries = _read(plan, q, rows, lanes, angles, plan.head_dim**-0.5)
                turned_queries[rows, :] = _only(queries, own)
                both = (_read(plan, x, rows, lanes).astype(jnp.float32) for x in (context, gradient))
                # The sum of probabilities times their gradients is that of the context times its own.
                mixed[:, rows] = functools.reduce(jnp.multiply, both).T[own].sum(axis=0, keepdims=True)
            for tile in range(len(plan.tiles)):
                _add_gradients(
                    plan, spans, tile, v, sums.at[head], gradient, turned_keys, turned_queries, of_queries,
                    of_keys, of_values, mixed, lanes, own,
                )  # fmt: skip
        for rows in plan.tiles:
            back = of_queries[:, rows].T * plan.head_dim**-0.5
            dq[rows, lanes] = turned(back, angles, rows, back=True).astype(dq.dtype)

    @pl.when(among_queries == plan.per_keys - 1)
    def _() -> None:
        for lanes, _ in plan.groups:
            dk[:, lanes] = turned(of_keys[:, lanes], angles, whole, back=True).astype(dk.dtype)
            dv[:, lanes] = of_values[:, lanes].astype(dv.dtype)


def _add_gradients(
    plan: Plan, spans: Any, tile: int, v: Any, sums: Any, gradient: Any, turned_keys: Any,
    turned_queries: Any, of_queries: Any, of_keys: Any, of_values: Any, mixed: Any, lanes: slice, own: slice,
) -> None:  # fmt: skip
    """Adds what one head's queries give a tile of keys and values, and what these give the queries."""
    keys = plan.tiles[tile]

    def add(step: Any, _: None) -> None:
        rows = plan.rows(step)
        queries = turned_queries[rows, :]
        outer = _only(_read(plan, gradient, rows, lanes), own)
        scores = multiply(turned_keys[keys, :], queries, ROWS_OF_BOTH)
        weights = _where_seen(plan, spans, tile, rows, jnp.exp(scores - sums[:, rows]), 0.0)
        of_weights = multiply(_read(plan, v, keys, lanes), outer, ROWS_OF_BOTH)
        of_scores = (weights * (of_weights - mixed[:, rows])).astype(queries.dtype)
        of_values[keys, lanes] += multiply(weights.astype(outer.dtype), outer)
        of_keys[keys, lanes] += multiply(of_scores, queries)
        of_queries[own, rows] += multiply(turned_keys[keys, :], of_scores, COLUMNS_OF_BOTH)[own]

    plan.each(range(tile if plan.is_causal else 0, len(plan.tiles)), add)


def multiply(a: Array, b: Array, dimensions: Any = _PLAIN) -> Array:
    """A product with sums in float32; inputs of float32 are multiplied as such."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _read(
    plan: Plan, ref: Any, rows: Any, lanes: slice, angles: Any = (), scale: float | None = None
) -> Array:
    """Rows of a block, turned by the rotary embedding and multiplied, if at all; zeros beyond the row."""
    x = ref[rows, lanes]
    dtype = x.dtype
    x = turned(x, angles, rows)
    x = x if scale is None else x.astype(jnp.float32) * scale
    if plan.ends_in(rows):
        places = rows.start + lax.broadcasted_iota(jnp.int32, x.shape, 0)
        x = jnp.where(places < plan.length, x.astype(jnp.float32), 0.0)
    return x.astype(dtype)


def turned(x: Array, angles: Any, rows: slice, back: bool = False) -> Array:
    """x[T, H] after the rotary embedding, or a gradient before it; as it is without one."""
    from jax.experimental.pallas import tpu as pltpu

    if not angles:
        return x
    sin, cos = (angle[rows] for angle in angles)
    x = x.astype(jnp.float32)
    other = pltpu.roll(x, x.shape[-1] // 2, 1) * sin
    return x * cos - other if back else x * cos + other


def _only(x: Array, own: slice) -> Array:
    """The lanes of one head, and zeros for those that share registers with it."""
    if own.stop - own.start == x.shape[-1]:
        return x
    lanes = lax.broadcasted_iota(jnp.int32, x.shape, 1)
    return jnp.where((lanes >= own.start) & (lanes < own.stop), x.astype(jnp.float32), 0.0).astype(x.dtype)


def _where_seen(plan: Plan, spans: Any, tile: Any, rows: Any, x: Array, other: float) -> Array:
    """x[tile, tile] of a tile of keys and rows of queries, and a number where a query does not see a key."""
    if not spans and not plan.ends_in(plan.rows(tile)):
        return x
    start, places = tile * plan.tile, lax.broadcasted_iota(jnp.int32, x.shape, 0)
    if not spans:
        return jnp.where(places < plan.length - start, x, other)
    first, last = (span[:, rows] for span in spans)
    if plan.ends_in(rows):  # no array says what queries beyond the row see: one key
        inside = rows.start + lax.broadcasted_iota(jnp.int32, first.shape, 1) < plan.length
        first, last = (jnp.where(inside, span, 0) for span in (first, last))
    # What comes before the first is far beyond the last, as a number without a sign.
    after = lax.bitcast_convert_type(places - (first - start), jnp.uint32)
    return jnp.where(after <= lax.bitcast_convert_type(last - first, jnp.uint32), x, other)
