"""Attention over pages, written out; every kernel must agree with it.

A kernel has the signature (q dtype[T, N, H], pages, batch, layer int32[],
num_layers) -> dtype[T, N, H]. A query sees the positions of its row up to its own.

The number of pages that are read is data: a row costs what it is long.
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
    tables = batch.block_tables + layer * (pages.keys.shape[0] // num_layers)
    # With a row for every token there is, rows have one token each as a rule.
    by_token = q.shape[0] == batch.lengths.shape[0]
    return (_by_token if by_token else _by_tile)(q, pages, batch, tables)


def _by_token(q: Array, pages: Pages, batch: PagedBatch, tables: Array) -> Array:
    """Token after token. Scores of all pages come first, so that sums need no rescaling on the way.

    Maxima and sums are taken over pages, of each place in a page, and over places once at the end:
    few numbers are reduced. A token of padding reads nothing, and gets zeros.
    """
    count, heads, width = q.shape
    kv_heads, size = pages.keys.shape[1], pages.page_size
    wide = jnp.promote_types(q.dtype, jnp.float32)
    q = (q * width**-0.5).reshape(count, kv_heads, heads // kv_heads, width)
    shape = (*q.shape[1:3], size)

    def token(number: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        out, scores = carry
        query = _item(q, number)
        table, position = tables.at[batch.rows[number]].get(mode="clip"), batch.positions[number]
        read = jnp.where(batch.rows[number] < tables.shape[0], position // size + 1, 0)

        def score(page: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            scores, greatest = carry
            keys = _item(pages.keys, table[page])
            new = jnp.einsum("kgh,ksh->kgs", query, keys, preferred_element_type=wide)
            new = jnp.where(page * size + jnp.arange(size) <= position, new, MASKED)
            return lax.dynamic_update_index_in_dim(scores, new, page, 0), jnp.maximum(greatest, new)

        scores, greatest = lax.fori_loop(0, read, score, (scores, jnp.full(shape, MASKED, wide)))
        greatest = _row_max(greatest)[..., None]

        def mix(page: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            total, context = carry
            values = _item(pages.values, table[page])
            powers = jnp.exp(_item(scores, page) - greatest)
            update = jnp.einsum(
                "kgs,ksh->kgh", powers.astype(values.dtype), values, preferred_element_type=wide
            )
            return total + powers, context + update

        nothing = jnp.zeros(shape, wide), jnp.zeros((*shape[:2], width), wide)
        total, context = lax.fori_loop(0, read, mix, nothing)
        total = jnp.sum(total, axis=-1, keepdims=True)
        context = (context / jnp.where(total > 0, total, 1)).astype(out.dtype)
        return _put(out, context.reshape(1, heads, width), number), scores

    # Of every token only the scores that it wrote are read, so nobody clears them.
    scores = jnp.zeros((tables.shape[1], *shape), wide)
    out = jnp.zeros((count, heads, width), pages.keys.dtype)
    return lax.fori_loop(0, batch.starts[-1], token, (out, scores))[0]


def _by_tile(q: Array, pages: Pages, batch: PagedBatch, tables: Array) -> Array:
    """Row after row, of each tile after tile of its tokens, of each tile some pages after the others."""
    tables = jnp.pad(tables, ((0, 0), (0, -tables.shape[1] % _BLOCK)))
    tile = min(_TILE, q.shape[0])
    padded = jnp.pad(q, ((0, tile - 1), (0, 0), (0, 0)))

    def row(number: Array, out: Array) -> Array:
        start, end = batch.starts[number], batch.starts[number + 1]
        before = batch.lengths[number] - (
            end - start
        )  # positions of the row that are no tokens of this batch

        def tiles(size: int, at: Array, count: Array, out: Array) -> Array:
            def one_tile(index: Array, out: Array) -> Array:
                first = index * size + at
                queries = lax.dynamic_slice_in_dim(padded, start + first, size)
                return _put(out, _attend(queries, pages, tables[number], before + first), start + first)

            return lax.fori_loop(0, count, one_tile, out)

        last = min(_LAST, tile)
        whole = jnp.maximum(end - start - last + tile - 1, 0) // tile
        out = tiles(tile, jnp.zeros_like(start), whole, out)
        return tiles(last, whole * tile, (end - start > whole * tile).astype(jnp.int32), out)

    return lax.fori_loop(0, batch.count[0], row, jnp.zeros_like(padded))[: q.shape[0]]


def probabilities(q: Array, pages: Pages, batch: PagedBatch, layer: Array, num_layers: int) -> Array:
    """What the tokens of the first row pay attention to: float32[N, T, W * page_size], to be looked at."""
    keys = keys_of(pages, batch.block_tables[0], layer, num_layers, q.shape[-1])
    mask = jnp.arange(keys.shape[0]) <= batch.positions[:, None]
    return attention.dot_product(q[None], keys[None], keys[None], mask[None])[1][0]


def _item(part: Array, index: Array) -> Array:
    return lax.dynamic_index_in_dim(part, index, 0, keepdims=False)


def _put(out: Array, values: Array, start: Array) -> Array:
    """Rows are written in order, so what a tile has beyond its row's end is written over."""
    return lax.dynamic_update_slice_in_dim(out, values, start, 0)


def _attend(q: Array, pages: Pages, table: Array, position: Array) -> Array:
    """Queries of one row at positions `position` and on: dtype[t, N, H] to the same.

    Softmax over blocks of pages: sums are rescaled as greater scores turn up.
    """
    count, heads, width = q.shape
    kv_heads, size = pages.keys.shape[1], _BLOCK * pages.page_size
    wide = jnp.promote_types(q.dtype, jnp.float32)
    groups = heads // kv_heads
    q = (q * width**-0.5).reshape(count, kv_heads, groups, width).transpose(1, 2, 0, 3)
    q = q.reshape(kv_heads, groups * count, width)
    limits = jnp.tile(position + jnp.arange(count), groups)[:, None]  # [groups * t, 1]

    def block(number: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        greatest, total, context = carry
        taken = lax.dynamic_slice_in_dim(table, number * _BLOCK, _BLOCK)
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
    found = [_item(part, taken[n]) for n in range(taken.shape[0])]
    return jnp.concatenate(found, axis=1)


def _row_max(scores: Array) -> Array:
    """The maximum over the last axis, spelled out: XLA for CPUs knows no library call for this one.

    The library would wake its threads, which takes longer than a few thousand numbers do.
    """
    return lax.reduce(
        scores, np.asarray(-np.inf, scores.dtype), lambda a, b: jnp.where(a > b, a, b), (scores.ndim - 1,)
    )
