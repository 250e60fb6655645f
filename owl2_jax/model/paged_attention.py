"""Attention over pages, written out; every kernel must agree with it.

A kernel has the signature (q dtype[T, N, H], pages, batch, layer int32[],
num_layers) -> dtype[T, N, H]. A query sees the positions of its row up to its own.

The number of pages that are read is data: a row costs what it is long.
"""

from __future__ import annotations

import functools
import math
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from owl2_jax.core.processes import usable_cores
from owl2_jax.model import attention
from owl2_jax.model.attention import MASKED
from owl2_jax.model.pages import PagedBatch, Pages, keys_of

Array = jax.Array

_TILE: Final = 32  # queries of a row that read its pages together
_LAST: Final = 8  # the same where no more are left, as of a prompt whose beginning is known
_SPLIT: Final = 32  # pages of a token that are read one after the other
_TOGETHER: Final = 8  # splits of which each reads a page at a time
_SHARED_PAGE: Final = 2**14  # bytes of a page from which on threads gain by sharing such a step
_TERMS: Final = 32  # of a sum in one pass
_BLOCK: Final = 4  # pages that a tile reads together; those beyond a row's end are masked


def written_out(q: Array, pages: Pages, batch: PagedBatch, layer: Array, num_layers: int) -> Array:
    """The reference: runs anywhere, fast on a CPU."""
    tables = batch.block_tables + layer * (pages.keys.shape[0] // num_layers)
    # With a row for every token there is, rows have one token each as a rule.
    by_token = q.shape[0] == batch.lengths.shape[0]
    return (_by_token if by_token else _by_tile)(q, pages, batch, tables)


def _by_token(q: Array, pages: Pages, batch: PagedBatch, tables: Array) -> Array:
    """Pages of each token in splits of a fixed number; some splits together, page after page of each.

    Splits of like lengths go together, as the longest decides how many pages are read: where
    another has no more, its first page, which the processor's cache holds, is read again and masked.
    The last splits, too few for this, go one by one. What the splits of a token found is put
    together by their maxima. Padding gets zeros.
    """
    count, heads, width = q.shape
    kv_heads, size = pages.keys.shape[1], pages.page_size
    wide = jnp.promote_types(q.dtype, jnp.float32)
    q = (q * width**-0.5).astype(wide).reshape(count, kv_heads, heads // kv_heads, width)
    tables = jnp.pad(tables, ((0, 0), (0, -tables.shape[1] % _SPLIT)))
    splits = tables.shape[1] // _SPLIT
    live = batch.rows < tables.shape[0]
    lengths = jnp.where(live, batch.positions + 1, 0)[:, None] - jnp.arange(splits) * _SPLIT * size
    lengths = jnp.clip(lengths, 0, _SPLIT * size).reshape(-1)  # positions of each split, [T * splits]
    order = jnp.argsort(lengths, descending=True)

    def repeat(together: int, first: Array, end: Array, found: tuple[Array, ...]) -> tuple[Array, ...]:
        def some(number: Array, found: tuple[Array, ...]) -> tuple[Array, ...]:
            at = first + number * together
            taken = lax.dynamic_slice_in_dim(order, at, together)
            token, split = taken // splits, taken % splits
            of_pages = tables.reshape(-1, _SPLIT).at[batch.rows[token] * splits + split].get(mode="clip").T
            new = _attend_splits(q[token], pages, of_pages, lengths[taken])
            return tuple(_put(old, part, at) for old, part in zip(found, new, strict=True))

        return lax.fori_loop(0, (end - first) // together, some, found)

    shape = (lengths.shape[0], *q.shape[1:3])
    found = jnp.full(shape, MASKED, wide), jnp.zeros(shape, wide), jnp.zeros((*shape, width), wide)
    first, end = jnp.zeros((), jnp.int32), jnp.sum(lengths > 0, dtype=jnp.int32)
    together = _together(pages)
    if lengths.shape[0] >= together > 1:
        found, first = repeat(together, first, end, found), end // together * together
    found = repeat(1, first, end, found)
    places = jnp.argsort(order).reshape(count, splits)
    greatest, total, context = (part[places] for part in found)  # [T, splits, K, G], context with H
    weights = jnp.exp(greatest - jnp.max(greatest, axis=1, keepdims=True))
    context = _sum(context * weights[..., None], 1) / _sum(total * weights, 1)[..., None]
    context = jnp.where(live[:, None, None, None], context, 0)
    return context.reshape(count, heads, width).astype(pages.keys.dtype)


def _attend_splits(q: Array, pages: Pages, of_pages: Array, lengths: Array) -> tuple[Array, Array, Array]:
    """A query for each of t splits of pages: greatest score, sum of powers, unscaled context.

    Scores of all pages come first, so that sums need no rescaling on the way. Maxima and sums are
    taken over pages, of each place in a page, and over places once at the end.

    Args:
      q: float32[t, K, G, H], scaled.
      of_pages: int32[_SPLIT, t].
      lengths: int32[t], positions that a split holds.

    Returns:
      float32[t, K, G] twice and float32[t, K, G, H].
    """
    size = pages.page_size
    shape = (*q.shape[:3], size)
    of_pages = jnp.where(jnp.arange(_SPLIT)[:, None] * size < lengths, of_pages, of_pages[0])
    steps = (jnp.max(lengths) + size - 1) // size

    def score(page: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        scores, greatest = carry
        keys = pages.keys[of_pages[page]]
        new = _sum(q[..., None] * keys[:, :, None].astype(q.dtype), 3)
        seen = page * size + jnp.arange(size) < lengths[:, None]
        new = jnp.where(seen[:, None, None], new, MASKED)
        return lax.dynamic_update_index_in_dim(scores, new, page, 0), jnp.maximum(greatest, new)

    # Scores that no page wrote are not read.
    empty = jnp.zeros((_SPLIT, *shape), q.dtype), jnp.full(shape, MASKED, q.dtype)
    scores, greatest = lax.fori_loop(0, steps, score, empty)
    greatest = _row_max(greatest)

    def mix(page: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        total, context = carry
        values = pages.values[of_pages[page]]
        powers = jnp.exp(_item(scores, page) - greatest[..., None])
        terms = powers.astype(values.dtype)[..., None].astype(q.dtype) * values[:, :, None].astype(q.dtype)
        return total + powers, context + _sum(terms, 3)

    total, context = lax.fori_loop(0, steps, mix, (jnp.zeros(shape, q.dtype), jnp.zeros_like(q)))
    return greatest, _sum(total, 3), context


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


def _together(pages: Pages) -> int:
    """Splits whose pages are read in one step. XLA gives it to several threads however little it is."""
    page_bytes = math.prod(pages.values.shape[1:]) * pages.values.dtype.itemsize
    return _TOGETHER if page_bytes >= _SHARED_PAGE or usable_cores() == 1 else 1


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
        keys, values = _side_by_side(pages.keys, taken, 2), _side_by_side(pages.values, taken, 1)
        scores = jnp.einsum("kqh,khs->kqs", q, keys, preferred_element_type=wide)
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


def _side_by_side(part: Array, taken: Array, axis: int) -> Array:
    """Some pages side by side: dtype[K, H, n * page_size] of keys, dtype[K, n * page_size, H] of values."""
    return jnp.concatenate([_item(part, taken[n]) for n in range(taken.shape[0])], axis=axis)


def _sum(terms: Array, axis: int) -> Array:
    """The sum over an axis, spelled out: XLA for CPUs knows no library call for this one.

    So products of gathered pages are summed as they are read, by all threads, and nothing is
    written out first. Of more than `_TERMS` XLA would make two sums, with the products in between.
    """
    count = terms.shape[axis]
    if count > _TERMS:
        each = next(n for n in range(_TERMS, 0, -1) if count % n == 0)
        parts = _sum(terms.reshape(*terms.shape[:axis], -1, each, *terms.shape[axis + 1 :]), axis + 1)
        found = (lax.index_in_dim(parts, n, axis, keepdims=False) for n in range(count // each))
        return functools.reduce(jnp.add, found)
    zero = np.zeros((), terms.dtype)
    return lax.reduce(terms, zero, lambda a, b: jnp.where(b == 0, a, a + b), (axis,))


def _row_max(scores: Array) -> Array:
    """The maximum over the last axis, spelled out: XLA for CPUs knows no library call for this one.

    The library would wake its threads, which takes longer than a few thousand numbers do.
    """
    return lax.reduce(
        scores, np.asarray(-np.inf, scores.dtype), lambda a, b: jnp.where(a > b, a, b), (scores.ndim - 1,)
    )
