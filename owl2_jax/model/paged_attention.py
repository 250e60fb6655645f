"""Attention over pages, written out; every kernel must agree with it.

A kernel has the signature (q dtype[T, N, H], pages, batch, layer int32[],
num_layers) -> dtype[T, N, H]. A query sees the positions of its row up to its own.

The number of pages that are read is data: a row costs what it is long. Rows go one
after the other, of each tile after tile of its tokens, of each tile page after page.
"""

from __future__ import annotations

from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from owl2_jax.model import attention
from owl2_jax.model.attention import MASKED
from owl2_jax.model.pages import PagedBatch, Pages, keys_of

Array = jax.Array

_TILE: Final = 32  # queries of a row that read its pages together
_LAST: Final = 8  # the same where no more are left, as of a prompt whose beginning is known
_BLOCK: Final = 4  # pages that a tile reads together; those beyond a row's end are masked


def written_out(q: Array, pages: Pages, batch: PagedBatch, layer: Array, num_layers: int) -> Array:
    """The reference: runs anywhere, fast on a CPU."""
    first = layer * (pages.keys.shape[0] // num_layers)
    tables = jnp.pad(batch.block_tables + first, ((0, 0), (0, -batch.block_tables.shape[1] % _BLOCK)))
    # With a row for every token there is, rows have one token each as a rule.
    tile = 1 if q.shape[0] == batch.lengths.shape[0] else min(_TILE, q.shape[0])
    block = 1 if tile == 1 else _BLOCK  # one token does better without the copy that joins pages
    padded = jnp.pad(q, ((0, tile - 1), (0, 0), (0, 0)))

    def row(number: Array, out: Array) -> Array:
        start, end = batch.starts[number], batch.starts[number + 1]
        before = batch.lengths[number] - (
            end - start
        )  # positions of the row that are no tokens of this batch

        def tiles(size: int, at: Array, count: Array, out: Array) -> Array:
            def one_tile(index: Array, out: Array) -> Array:
                first = index * size + at
                queries = _take(padded, start + first, size)
                return _put(
                    out, _attend(queries, pages, tables[number], before + first, block), start + first
                )

            return lax.fori_loop(0, count, one_tile, out)

        last = min(_LAST, tile) if tile > 1 else 0
        whole = jnp.maximum(end - start - last + tile - 1, 0) // tile
        out = tiles(tile, jnp.zeros_like(start), whole, out)
        if not last:
            return out
        return tiles(last, whole * tile, (end - start > whole * tile).astype(jnp.int32), out)

    return lax.fori_loop(0, batch.count[0], row, jnp.zeros_like(padded))[: q.shape[0]]


def probabilities(q: Array, pages: Pages, batch: PagedBatch, layer: Array, num_layers: int) -> Array:
    """What the tokens of the first row pay attention to: float32[N, T, W * page_size], to be looked at."""
    keys = keys_of(pages, batch.block_tables[0], layer, num_layers, q.shape[-1])
    mask = jnp.arange(keys.shape[0]) <= batch.positions[:, None]
    return attention.dot_product(q[None], keys[None], keys[None], mask[None])[1][0]


def _take(q: Array, start: Array, count: int) -> Array:
    return lax.dynamic_slice_in_dim(q, start, count)


def _put(out: Array, values: Array, start: Array) -> Array:
    """Rows are written in order, so what a tile has beyond its row's end is written over."""
    return lax.dynamic_update_slice_in_dim(out, values, start, 0)


def _attend(q: Array, pages: Pages, table: Array, position: Array, together: int) -> Array:
    """Queries of one row at positions `position` and on: dtype[t, N, H] to the same.

    Reads pages so many `together`. Softmax over blocks: sums are rescaled as greater scores turn up.
    """
    count, heads, width = q.shape
    kv_heads, size = pages.keys.shape[1], together * pages.page_size
    wide = jnp.promote_types(q.dtype, jnp.float32)
    groups = heads // kv_heads
    q = (q * width**-0.5).reshape(count, kv_heads, groups, width).transpose(1, 2, 0, 3)
    q = q.reshape(kv_heads, groups * count, width)
    limits = jnp.tile(position + jnp.arange(count), groups)[:, None]  # [groups * t, 1]

    def block(number: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        greatest, total, context = carry
        taken = lax.dynamic_slice_in_dim(table, number * together, together)
        keys, values = (_side_by_side(part, taken) for part in (pages.keys, pages.values))
        scores = jnp.einsum("kqh,ksh->kqs", q, keys, preferred_element_type=wide)
        scores = jnp.where(number * size + jnp.arange(size) <= limits, scores, MASKED)
        new = jnp.maximum(greatest, _row_max(scores))
        powers = jnp.exp(scores - new[..., None])
        rescale = jnp.exp(greatest - new)
        total = total * rescale + powers @ jnp.ones((size,), wide)
        update = jnp.einsum("kqs,ksh->kqh", powers.astype(values.dtype), values, preferred_element_type=wide)
        return new, total, context * rescale[..., None] + update

    rows = q.shape[:2]
    empty = jnp.full(rows, MASKED, wide), jnp.zeros(rows, wide), jnp.zeros((*rows, width), wide)
    _, total, context = lax.fori_loop(0, (position + count - 1) // size + 1, block, empty)
    context = (context / total[..., None]).astype(pages.keys.dtype)
    return context.reshape(kv_heads, groups, count, width).transpose(2, 0, 1, 3).reshape(count, heads, width)


def _side_by_side(part: Array, taken: Array) -> Array:
    """Some pages of keys or values side by side: dtype[K, n * page_size, H]."""
    found = [lax.dynamic_index_in_dim(part, taken[n], 0, keepdims=False) for n in range(taken.shape[0])]
    return jnp.concatenate(found, axis=1)


def _row_max(scores: Array) -> Array:
    """The maximum over the last axis, spelled out: XLA for CPUs knows no library call for this one.

    The library would wake its threads, which takes longer than a few thousand numbers do.
    """
    return lax.reduce(
        scores, np.asarray(-np.inf, scores.dtype), lambda a, b: jnp.where(a > b, a, b), (scores.ndim - 1,)
    )
