"""Flash attention for TPU of long prompts over pages, of which many tokens come in one step.

The pages of every row are put side by side once, and a row's keys and values of a head then lie in fast
memory whole while its queries come block by block. A block of the flat batch may hold tokens of several
rows, and a row's tokens may lie in several blocks; a step of the kernel's grid is one such visit:

    tokens    0 . . . . . . . . . . . . . . .
    rows      0 0 0 0 0 1 1 1 2 2 2 2 2 2 - -       - : padding, a last row that sees nothing
    blocks    0 0 0 0 1 1 1 1 2 2 2 2 3 3 3 3
    visits    |0:0  |1:0|1:1|2:2    |3:2|3:-|       block:row

A query sees its row's keys up to its own, so that a visit ends with the tile of its last query.
"""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from owl2_jax.core import axes, platforms
from owl2_jax.model import flash_kernels
from owl2_jax.model.attention import MASKED
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.flash_plan import LANES, Angles
from owl2_jax.model.pages import COMBINED, PagedBatch, Pages

Array = jax.Array

_TILE: Final = 512  # queries and keys at a time
_ROW_BYTES: Final = 2**22  # of a head's keys, at most: they and as many values lie in fast memory, twice
_NUMBERS_HELD: Final = 12  # of a tile at a time


def takes(config: Owl2Config, tokens: int, pages: Pages, batch: PagedBatch) -> bool:
    """Whether a step over pages runs this kernel: one of `tokens` tokens in all, of long prompts, on a TPU.

    Rows have a block of tokens each or more then, and a quarter of their longest, as a rule. Of fewer, it
    takes longer to put the pages of all rows side by side than it saves.
    """
    rows, places = batch.block_tables.shape
    positions, width = places * pages.page_size, config.decoder.head_dim
    row_bytes = positions * width * pages.keys.dtype.itemsize
    fits = width % LANES == 0 and _TILE % pages.page_size == 0 and row_bytes <= _ROW_BYTES
    are_long = tokens >= rows * max(_TILE, positions // 4)
    is_asked = pages.layout == COMBINED and config.attention in ("auto", "flash")
    return is_asked and fits and are_long and platforms.current_platform() == "tpu"


def attend(
    q: Array, angles: Angles, pages: Pages, batch: PagedBatch, visited: Visits, layer: Array, num_layers: int,
    interpret: bool = False,
) -> Array:  # fmt: skip
    """Attention over combined pages, which hold the batch's own keys too; queries are turned on the way.

    On a mesh every device runs the kernel on its own heads.

    Args:
      q: dtype[T, N * H], as products made them.
      angles: from `rotary.rolled_angles` for the T tokens, float32[T, H] each; or none, for no turn.
      visited: from `visits`; the same for all layers.
      layer: int32[], of `num_layers`.
      interpret: run the kernel's program without a TPU, slowly.

    Returns:
      dtype[T, N * H]; zeros for padding.
    """
    tables = batch.block_tables + layer * (pages.keys.shape[0] // num_layers)
    local = functools.partial(_local, interpret=interpret)
    arguments = q, pages.keys, angles, tables, visited
    if jax.sharding.get_abstract_mesh().empty:
        return local(*arguments)
    heads = nn.logical_to_mesh_axes((None, axes.ACT_HEADS))
    whole = jax.sharding.PartitionSpec()
    specs = heads, nn.logical_to_mesh_axes(pages.axes), (whole,) * len(angles), whole, whole
    return jax.shard_map(local, in_specs=specs, out_specs=heads, check_vma=False)(*arguments)


class Visits(NamedTuple):
    """Visits of blocks to rows, int32[V] each.

    Attributes:
      block, row: which. Where nothing is seen, the row is the one before, which need not be fetched.
      first, end: tokens of the flat batch that are visited, none where a visit does nothing.
      offset: what makes a token's number its position.
      seen: keys that the last of the tokens sees.
    """

    block: Array
    row: Array
    first: Array
    end: Array
    offset: Array
    seen: Array


def visits(batch: PagedBatch, tokens: int) -> Visits:
    """Every visit in the order of tokens, padding being a last row, and behind them some that do nothing."""
    rows = batch.lengths.shape[0]
    block = _block(tokens)
    total = batch.starts[batch.count[0]]
    starts = jnp.append(jnp.minimum(batch.starts, total), tokens)  # of rows and of padding; its end
    firsts, ends = starts[:-1], starts[1:]
    blocks = jnp.where(ends > firsts, (ends - 1) // block - firsts // block + 1, 0)
    behind = jnp.cumsum(blocks)
    visit = jnp.arange(-(-tokens // block) + rows)
    row = jnp.minimum(jnp.searchsorted(behind, visit, side="right", method="compare_all"), rows)
    number = firsts[row] // block + visit - (behind - blocks)[row]
    number = jnp.minimum(number, -(-tokens // block) - 1)
    first, end = jnp.maximum(firsts[row], number * block), jnp.minimum(ends[row], (number + 1) * block)
    is_real = visit < behind[-1]
    end = jnp.where(is_real, end, first)
    lengths = jnp.append(batch.lengths, 0)
    offset = lengths[row] - ends[row]
    seen = jnp.where(is_real & (row < rows), end + offset, 0)
    row = jnp.minimum(row, jnp.maximum(batch.count[0] - 1, 0))
    found = number, row, first, end, offset, seen
    return Visits(*(part.astype(jnp.int32) for part in found))


def _block(tokens: int) -> int:
    """Tokens of a block."""
    return min(_TILE, -(-tokens // LANES) * LANES)


def _local(q: Array, pages: Array, angles: Angles, tables: Array, visited: Visits, interpret: bool) -> Array:
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    rows, places = tables.shape
    size, pairs, width = pages.shape[1:]
    tile = min(_TILE, -(-places * size // LANES) * LANES)
    tables = jnp.pad(tables, ((0, 0), (0, -places % (tile // size))))
    held = pages[tables].reshape(rows, -1, pairs * width)
    tokens, block = q.shape[0], _block(q.shape[0])
    heads, kv_heads = q.shape[1] // width, pairs // 2
    per_keys = heads // kv_heads
    of_queries = pl.BlockSpec((block, width), lambda h, g, i, *v: (Visits(*v).block[i], h * per_keys + g))
    of_angles = pl.BlockSpec((block, width), lambda h, g, i, *v: (Visits(*v).block[i], 0))
    of_keys, of_values = (
        pl.BlockSpec(
            (None, held.shape[1], width), lambda h, g, i, *v, part=part: (Visits(*v).row[i], 0, 2 * h + part)
        )
        for part in (0, 1)
    )

    item = q.dtype.itemsize
    blocks = 4 * (block * width + held.shape[1] * width) * item + 4 * block * width * 4
    return pl.pallas_call(
        functools.partial(_kernel, tile),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(visited),
            grid=(kv_heads, per_keys, len(visited.block)),
            in_specs=(of_queries, of_keys, of_values, *[of_angles] * len(angles)),
            out_specs=of_queries,
        ),
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=blocks + _NUMBERS_HELD * 4 * tile * block,
        ),
        cost_estimate=_cost(tokens, rows, held.shape[1], heads, width, item),
        interpret=interpret,
        name="prompt_attention",
    )(*visited, q, held, held, *angles)


def _cost(tokens: int, rows: int, positions: int, heads: int, width: int, size: int) -> Any:
    """What the compiler and `owl2 fit` take a call for, as lengths are data.

    Rows have `positions` each, the last of which are their share of the tokens.

    Args:
      size: bytes of a number of queries, keys and values.
    """
    from jax.experimental import pallas as pl

    own = min(tokens // rows, positions)
    blocks = -(-own // _TILE)
    seen = sum(min(positions, positions - own + (i + 1) * _TILE) for i in range(blocks))
    pairs = rows * heads * seen * min(own, _TILE)
    moved = 2 * size * width * heads * (tokens + rows * positions) + 8 * tokens * width * heads
    return pl.CostEstimate(flops=4 * pairs * width, transcendentals=pairs, bytes_accessed=moved)


def _kernel(tile: int, *refs: Any) -> None:
    """One visit of one head.

    Args:
      refs: `Visits`; a block of queries, dtype[B, H]; keys and values of a row, dtype[S, H]; the queries'
        angles, float32[B, H] each, if any; and their context, dtype[B, H], of which what is visited is
        written.
    """
    from jax.experimental import pallas as pl

    count = len(Visits._fields)
    visited, (q, k, v, *angles, out) = Visits(*refs[:count]), refs[count:]
    visit = pl.program_id(2)
    first, end, offset, seen = (part[visit] for part in visited[2:])
    begin = visited.block[visit] * q.shape[0]

    @pl.when(end > first)
    def _() -> None:
        turned = flash_kernels.turned(q[...], angles, slice(None)).astype(jnp.float32)
        queries = (turned * q.shape[1] ** -0.5).astype(q.dtype)
        positions = begin + offset + lax.broadcasted_iota(jnp.int32, (1, q.shape[0]), 1)

        def add(step: Any, carry: flash_kernels.Mixed) -> flash_kernels.Mixed:
            rows = pl.ds(pl.multiple_of(step * tile, tile), tile)
            scores = flash_kernels.multiply(k[rows, :], queries, flash_kernels.ROWS_OF_BOTH)
            places = step * tile + lax.broadcasted_iota(jnp.int32, scores.shape, 0)
            scores = jnp.where(places <= positions, scores, MASKED)
            # What others left behind a row may be no number, which no weight of zero wipes out.
            is_seen = step * tile + lax.broadcasted_iota(jnp.int32, (tile, q.shape[1]), 0) < seen
            values = jnp.where(is_seen, v[rows, :].astype(jnp.float32), 0.0).astype(v.dtype)
            return flash_kernels.mix(carry, scores, values)

        tiles = lax.div(seen + tile - 1, tile)
        nothing = flash_kernels.nothing(q.shape[1], q.shape[0])
        _, total, mixed = lax.fori_loop(0, tiles, add, nothing)
        context = (mixed / jnp.where(total == 0.0, 1.0, total)).T
        tokens = begin + lax.broadcasted_iota(jnp.int32, out.shape, 0)
        mine = (tokens >= first) & (tokens < end)
        out[...] = jnp.where(mine, context, out[...].astype(jnp.float32)).astype(out.dtype)
