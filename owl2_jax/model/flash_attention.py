"""Flash attention for TPU over heads that lie side by side, as the products around it make them.

A step of its Pallas kernels computes whole rows of some heads (Dao et al. 2022, "FlashAttention"), so that
no head is ever moved by itself, nor a copy of a row made that has them apart:

    grid      rows x heads
    blocks    [T, H] out of dtype[B, T, N * H]

    queries     0 1 2 3        Scores are computed keys x queries, tile by tile, with what a query sums up
    keys   0    d x x x        along the lanes of a register. Causal rows leave out the tiles below the
           1      d x x        diagonal; in the others each query has a span of keys that it sees.
           2        d x
           3          d

Queries and keys may be turned by the rotary embedding on the way, and their gradients back: what the
backward pass keeps are then the products themselves.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from owl2_jax.model import remat
from owl2_jax.model.attention import MASKED

Array = jax.Array

_LANES: Final = 128  # of a register
_LEAST_TILE: Final = 256  # of a row that long: smaller ones end before a matrix unit is filled
_LARGEST_TILE: Final = 640
_CAUSAL_TILES: Final = 4  # of a row, if it has as many registers: a tile on the diagonal is half in vain
_TOKENS_PER_STEP: Final = 2048  # of all heads: a step of the grid takes time by itself
ROW_BYTES: Final = (
    2**20
)  # of a head, at most: a row lies in fast memory whole, and so does what is made of it

_ROWS_OF_BOTH: Final = (((1,), (1,)), ((), ()))  # a b^T
_COLUMNS_OF_BOTH: Final = (((0,), (0,)), ((), ()))  # a^T b
_PLAIN: Final = (((1,), (0,)), ((), ()))  # a b

Angles = tuple[Array, Array] | tuple[()]  # from `rotary.rolled_angles`, or none
Spans = tuple[Array, Array] | tuple[()]  # first and last key that each query sees, int32[B, 1, T], or all


def fits(length: int, head_dim: int, dtype: DTypeLike) -> bool:
    """Whether the kernels take rows of so many tokens, and heads of this width that have a register each."""
    return head_dim % _LANES == 0 and length * head_dim * jnp.dtype(dtype).itemsize <= ROW_BYTES


def fits_narrow(length: int, heads: int, head_dim: int, dtype: DTypeLike) -> bool:
    """Whether they take so many heads of a device that share registers, each with keys of its own."""
    together = _LANES % head_dim == 0 and heads * head_dim % _LANES == 0
    return together and fits(length, _LANES, dtype)


def causal_spans(segment_ids: Array) -> Spans:
    """Spans under `attention.causal_segment_mask`.

    Args:
      segment_ids: int32[B, T], 0 for padding, rising; a segment's tokens follow each other.
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
    """Softmax attention.

    Args:
      q: dtype[B, T, N * H]. k, v: dtype[B, T, K * H].
      angles: the rotary embedding of queries and keys, if any.
      spans: of causal attention, from `causal_spans`; without, all see all.
      head_dim: H.
      interpret: run the kernels' program without a TPU, slowly.

    Returns:
      dtype[B, T, N * H].
    """
    return _flash(q, k, v, angles, spans, head_dim, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _flash(
    q: Array, k: Array, v: Array, angles: Angles, spans: Spans, head_dim: int, interpret: bool
) -> Array:
    return _flash_forward(q, k, v, angles, spans, head_dim, interpret)[0]


def _flash_forward(
    q: Array, k: Array, v: Array, angles: Angles, spans: Spans, head_dim: int, interpret: bool
) -> tuple[Array, tuple[Any, ...]]:
    plan = _plan(q, k, head_dim, is_causal=bool(spans))
    queries, keys, sums = plan.queries(), plan.keys(), plan.sums()
    log_sums = jax.ShapeDtypeStruct((len(q), q.shape[-1] // head_dim, 1, plan.padded), jnp.float32)
    context, log_sums = _call(
        _forward_kernel, plan, "flash_forward", interpret,
        in_specs=(*plan.given(angles, spans), queries, keys, keys),
        out_specs=(queries, sums),
        out_shape=(_like(q), log_sums),
        scratch={"turned_keys": (plan.rows_of_group, q.dtype)},
    )(angles, spans, q, k, v)  # fmt: skip
    # Policies that keep the context then keep all that the backward kernel needs.
    context, log_sums = (checkpoint_name(x, remat.CONTEXT) for x in (context, log_sums))
    return context, (angles, spans, q, k, v, context, log_sums)


def _flash_backward(
    head_dim: int, interpret: bool, kept: tuple[Any, ...], gradient: Array
) -> tuple[Array, Array, Array, None, None]:
    angles, spans, q, k, v, *_ = kept
    plan = _plan(q, k, head_dim, is_causal=bool(spans))
    queries, keys, sums = plan.queries(), plan.keys(), plan.sums()
    wide, rows = jnp.float32, plan.rows_of_group
    dq, dk, dv = _call(
        _backward_kernel, plan, "flash_backward", interpret,
        in_specs=(*plan.given(angles, spans), queries, keys, keys, queries, sums, queries),
        out_specs=(queries, keys, keys),
        out_shape=(_like(q), _like(k), _like(v)),
        scratch={
            "turned_keys": (rows, q.dtype), "turned_queries": (rows, q.dtype),
            "of_queries": (rows[::-1], wide), "of_keys": ((plan.padded, plan.width), wide),
            "of_values": ((plan.padded, plan.width), wide), "mixed": ((1, plan.padded), wide),
        },
    )(*kept, gradient)  # fmt: skip
    return dq, dk, dv, None, None


_flash.defvjp(_flash_forward, _flash_backward)


def _like(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Sizes of a call.

    Attributes:
      length: T.
      padded: the same in whole registers; what lies beyond T is of no array.
      head_dim: H.
      group: channels of a head, or of those that share a register.
      width: channels of a block.
      per_keys: heads of queries per head of keys.
      tile: keys and queries at a time.
      grid: rows, blocks of keys, queries per keys.
      is_causal: whether tiles below the diagonal are left out.
    """

    length: int
    padded: int
    head_dim: int
    group: int
    width: int
    per_keys: int
    tile: int
    grid: tuple[int, int, int]
    is_causal: bool

    @property
    def rows_of_group(self) -> tuple[int, int]:
        """Shape of what a row's heads that share registers have."""
        return self.padded, self.group

    @property
    def heads(self) -> list[tuple[slice, list[tuple[int, slice]]]]:
        """Lanes of a block that belong together, and the heads in them: number and channels of each."""
        members = self.group // self.head_dim
        channels = [slice(one * self.head_dim, (one + 1) * self.head_dim) for one in range(members)]
        return [
            (slice(i * self.group, (i + 1) * self.group), list(enumerate(channels, i * members)))
            for i in range(self.width // self.group)
        ]

    @property
    def tiles(self) -> list[slice]:
        """Rows of each."""
        return [slice(start, start + self.tile) for start in range(0, self.padded, self.tile)]

    def rows(self, number: Any) -> Any:
        """Of a tile, whose number may be that of a loop."""
        from jax.experimental import pallas as pl

        if isinstance(number, int):
            return self.tiles[number]
        return pl.ds(pl.multiple_of(number * self.tile, self.tile), self.tile)

    def each(self, numbers: range, body: Callable[[Any, Any], Any], carry: Any = None) -> Any:
        """A loop over tiles; where a row ends within one, every tile is written out."""
        if self.padded == self.length and len(numbers) > 1:
            return lax.fori_loop(numbers.start, numbers.stop, body, carry)
        for number in numbers:
            carry = body(number, carry)
        return carry

    def queries(self) -> Any:
        """Block of dtype[B, T, N * H]."""
        from jax.experimental import pallas as pl

        per_keys = self.per_keys
        return pl.BlockSpec((None, self.padded, self.width), lambda b, h, g: (b, 0, h * per_keys + g))

    def keys(self) -> Any:
        """Block of dtype[B, T, K * H]."""
        from jax.experimental import pallas as pl

        return pl.BlockSpec((None, self.padded, self.width), lambda b, h, g: (b, 0, h))

    def sums(self) -> Any:
        """Block of float32[B, N, 1, T]."""
        from jax.experimental import pallas as pl

        per_keys, heads = self.per_keys, self.width // self.head_dim
        return pl.BlockSpec((None, heads, 1, self.padded), lambda b, h, g: (b, h * per_keys + g, 0, 0))

    def given(self, angles: Angles, spans: Spans) -> tuple[Any, Any]:
        """Blocks of these."""
        from jax.experimental import pallas as pl

        angle = pl.BlockSpec((None, self.padded, self.head_dim), lambda b, h, g: (b, 0, 0))
        span = pl.BlockSpec((None, 1, self.padded), lambda b, h, g: (b, 0, 0))
        return tuple(angle for _ in angles), tuple(span for _ in spans)


def _plan(q: Array, k: Array, head_dim: int, is_causal: bool) -> _Plan:
    length, group = q.shape[1], max(head_dim, _LANES)
    padded = -(-length // _LANES) * _LANES
    per_keys, groups = q.shape[-1] // k.shape[-1], k.shape[-1] // group
    most = max(_TOKENS_PER_STEP // padded, 1) if per_keys == 1 else 1
    together = next(count for count in range(most, 0, -1) if groups % count == 0)
    largest = max(padded // _CAUSAL_TILES, _LEAST_TILE) if is_causal else padded
    sizes = range(min(largest // _LANES * _LANES, _LARGEST_TILE), 0, -_LANES)
    tile = next(size for size in sizes if padded % size == 0)
    grid = (len(q), groups // together, per_keys)
    return _Plan(length, padded, head_dim, group, together * group, per_keys, tile, grid, is_causal)


def _call(
    kernel: Callable[..., None], plan: _Plan, name: str, interpret: bool, in_specs: tuple[Any, ...],
    out_specs: tuple[Any, ...], out_shape: tuple[Any, ...], scratch: dict[str, tuple[tuple[int, ...], Any]],
) -> Callable[..., Any]:  # fmt: skip
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    size = max(x.dtype.itemsize for x in out_shape[:1])
    blocks = 2 * plan.padded * (8 * plan.width * size + 2 * plan.head_dim * 4)  # two of each
    kept = sum(math.prod(shape) * jnp.dtype(dtype).itemsize for shape, dtype in scratch.values())
    return pl.pallas_call(
        functools.partial(kernel, plan),
        grid=plan.grid, in_specs=in_specs, out_specs=out_specs, out_shape=out_shape,
        scratch_shapes=[pltpu.VMEM(shape, dtype) for shape, dtype in scratch.values()],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=blocks + kept + 6 * size * 4 * plan.tile**2,
        ),
        interpret=interpret, name=name,
    )  # fmt: skip


def _forward_kernel(
    plan: _Plan, angles: Any, spans: Any, q: Any, k: Any, v: Any, out: Any, sums: Any, turned_keys: Any
) -> None:
    whole = slice(0, plan.padded)
    for lanes, members in plan.heads:
        turned_keys[...] = _read(plan, k, whole, lanes, angles)
        for number, rows in enumerate(plan.tiles):
            queries = _scaled_queries(plan, q, angles, rows, lanes)
            mixed = []
            for head, channels in members:
                values, sums[head, :, rows] = _mix(
                    plan, spans, number, _only(queries, channels), turned_keys, v, lanes
                )
                mixed.append(values[channels])
            out[rows, lanes] = jnp.concatenate(mixed).T.astype(out.dtype)


def _mix(
    plan: _Plan, spans: Any, number: int, queries: Array, turned_keys: Any, v: Any, lanes: slice
) -> tuple[Array, Array]:
    """Values mixed for a tile of one head's queries, [lanes, tile], and logarithms of its sums, [1, tile]."""

    def add(step: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        most, total, mixed = carry
        keys = plan.rows(step)
        scores = _multiply(turned_keys[keys, :], queries, _ROWS_OF_BOTH)
        scores = _where_seen(plan, spans, step, plan.tiles[number], scores, MASKED)
        higher = jnp.maximum(most, scores.max(axis=0, keepdims=True))
        weights, old = jnp.exp(scores - higher), jnp.exp(most - higher)
        values = _read(plan, v, keys, lanes)
        more = _multiply(values, weights.astype(values.dtype), _COLUMNS_OF_BOTH)
        return higher, total * old + weights.sum(axis=0, keepdims=True), mixed * old + more

    nothing = (
        jnp.full((1, plan.tile), MASKED, jnp.float32),
        jnp.zeros((1, plan.tile), jnp.float32),
        jnp.zeros((plan.group, plan.tile), jnp.float32),
    )
    seen = range(number + 1 if plan.is_causal else len(plan.tiles))
    # The diagonal's tile comes last, in which every query sees a key: that wipes out what
    # a tile of which it sees none has added.
    most, total, mixed = add(seen[-1], plan.each(seen[:-1], add, nothing))
    return mixed / total, most + jnp.log(total)


def _backward_kernel(
    plan: _Plan, angles: Any, spans: Any, q: Any, k: Any, v: Any, context: Any, sums: Any, gradient: Any,
    dq: Any, dk: Any, dv: Any, turned_keys: Any, turned_queries: Any, of_queries: Any, of_keys: Any,
    of_values: Any, mixed: Any,
) -> None:  # fmt: skip
    from jax.experimental import pallas as pl

    whole = slice(0, plan.padded)
    number_of_keys = pl.program_id(2)

    @pl.when(number_of_keys == 0)
    def _() -> None:
        of_keys[...] = jnp.zeros_like(of_keys)
        of_values[...] = jnp.zeros_like(of_values)

    for lanes, members in plan.heads:
        turned_keys[...] = _read(plan, k, whole, lanes, angles)
        of_queries[...] = jnp.zeros_like(of_queries)
        for head, channels in members:
            for rows in plan.tiles:
                turned_queries[rows, :] = _only(_scaled_queries(plan, q, angles, rows, lanes), channels)
                both = (_read(plan, x, rows, lanes).astype(jnp.float32) for x in (context, gradient))
                mixed[:, rows] = functools.reduce(jnp.multiply, both).T[channels].sum(axis=0, keepdims=True)
            for number in range(len(plan.tiles)):
                _add_gradients(
                    plan, spans, number, v, sums.at[head], gradient, turned_keys, turned_queries, of_queries,
                    of_keys, of_values, mixed, lanes, channels,
                )  # fmt: skip
        for rows in plan.tiles:
            back = of_queries[:, rows].T * plan.head_dim**-0.5
            dq[rows, lanes] = _turned(back, angles, rows, back=True).astype(dq.dtype)

    @pl.when(number_of_keys == plan.per_keys - 1)
    def _() -> None:
        for lanes, _ in plan.heads:
            dk[:, lanes] = _turned(of_keys[:, lanes], angles, whole, back=True).astype(dk.dtype)
            dv[:, lanes] = of_values[:, lanes].astype(dv.dtype)


def _add_gradients(
    plan: _Plan, spans: Any, number: int, v: Any, sums: Any, gradient: Any, turned_keys: Any,
    turned_queries: Any, of_queries: Any, of_keys: Any, of_values: Any, mixed: Any, lanes: slice,
    channels: slice,
) -> None:  # fmt: skip
    """Adds what one head's queries give a tile of keys and values, and what these give the queries."""
    keys = plan.tiles[number]

    def add(step: Any, _: None) -> None:
        rows = plan.rows(step)
        queries = turned_queries[rows, :]
        outer = _only(_read(plan, gradient, rows, lanes), channels)
        scores = _multiply(turned_keys[keys, :], queries, _ROWS_OF_BOTH)
        weights = _where_seen(plan, spans, number, rows, jnp.exp(scores - sums[:, rows]), 0.0)
        of_weights = _multiply(_read(plan, v, keys, lanes), outer, _ROWS_OF_BOTH)
        of_scores = (weights * (of_weights - mixed[:, rows])).astype(queries.dtype)
        of_values[keys, lanes] += _multiply(weights.astype(outer.dtype), outer)
        of_keys[keys, lanes] += _multiply(of_scores, queries)
        back = _multiply(turned_keys[keys, :], of_scores, _COLUMNS_OF_BOTH)
        of_queries[channels, rows] += back[channels]

    seen = range(number if plan.is_causal else 0, len(plan.tiles))
    add(seen[0], None)
    plan.each(seen[1:], add)


def _multiply(a: Array, b: Array, dimensions: Any = _PLAIN) -> Array:
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _read(plan: _Plan, ref: Any, rows: Any, lanes: slice, angles: Any = ()) -> Array:
    """Rows of a block after the rotary embedding, if any; zeros where there is no array."""
    x = ref[rows, lanes]
    dtype = x.dtype
    x = _turned(x, angles, rows)
    if plan.padded > plan.length and rows.stop > plan.length:
        places = rows.start + lax.broadcasted_iota(jnp.int32, x.shape, 0)
        x = jnp.where(places < plan.length, x.astype(jnp.float32), 0.0)
    return x.astype(dtype)


def _only(x: Array, channels: slice) -> Array:
    """The channels of one head, and zeros for those that share registers with it."""
    if channels.stop - channels.start == x.shape[-1]:
        return x
    places = lax.broadcasted_iota(jnp.int32, x.shape, 1)
    mine = (places >= channels.start) & (places < channels.stop)
    return jnp.where(mine, x.astype(jnp.float32), 0.0).astype(x.dtype)


def _scaled_queries(plan: _Plan, q: Any, angles: Any, rows: slice, lanes: slice) -> Array:
    queries = _read(plan, q, rows, lanes, angles)
    return (queries.astype(jnp.float32) * plan.head_dim**-0.5).astype(q.dtype)


def _turned(x: Array, angles: Any, rows: slice, back: bool = False) -> Array:
    """x[T, H] after the rotary embedding, or a gradient before it; as it is without one."""
    from jax.experimental.pallas import tpu as pltpu

    if not angles:
        return x
    sin, cos = (angle[rows] for angle in angles)
    x = x.astype(jnp.float32)
    other = pltpu.roll(x, x.shape[-1] // 2, 1) * sin
    return x * cos - other if back else x * cos + other


def _where_seen(plan: _Plan, spans: Any, keys: Any, rows: Any, x: Array, other: float) -> Array:
    """x[tile, tile] of a tile of keys and rows of queries, and a number where a query does not see a key."""
    in_row = plan.padded == plan.length
    if not spans and (in_row or plan.rows(keys).stop <= plan.length):
        return x
    start, places = keys * plan.tile, lax.broadcasted_iota(jnp.int32, x.shape, 0)
    if not spans:
        return jnp.where(places < plan.length - start, x, other)
    first, last = (span[:, rows] for span in spans)
    if not in_row and rows.stop > plan.length:  # no array says what these are; they see one key
        inside = rows.start + lax.broadcasted_iota(jnp.int32, first.shape, 1) < plan.length
        first, last = (jnp.where(inside, span, 0) for span in (first, last))
    # What comes before the first is far beyond the last, as a number without a sign.
    after = lax.bitcast_convert_type(places - (first - start), jnp.uint32)
    return jnp.where(after <= lax.bitcast_convert_type(last - first, jnp.uint32), x, other)
