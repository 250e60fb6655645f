"""Attention over pages against the product written out over whole sequences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl2_jax.model import attention, paged_attention
from owl2_jax.model.pages import HEADS, PagedBatch, Pages, copy_pages, empty_pages, write_tokens
from owl2_jax.testing import tiny

LAYERS, COUNT, SIZE, HEADS_Q, HEADS_KV, WIDTH = 2, 12, 4, 4, 2, 8
CONFIG = tiny.tiny_config(**{"decoder.width": HEADS_Q * WIDTH, "decoder.num_layers": LAYERS})


def batch_of(lengths: list[int], counts: list[int], tokens: int, rows: int, seed: int = 0) -> PagedBatch:
    """Rows of `lengths` positions whose last `counts` are tokens, on pages in any order."""
    width = 10
    pages = np.random.default_rng(seed).permutation(COUNT)
    tables = np.zeros((rows, width), np.int32)
    first = 0
    for row, length in enumerate(lengths):
        needed = -(-length // SIZE)
        tables[row, :needed] = pages[first : first + needed]
        first += needed
    of_token = np.repeat(np.arange(len(counts)), counts)
    positions = np.concatenate([np.arange(n - k, n) for n, k in zip(lengths, counts, strict=True)])
    starts = np.full(rows + 1, sum(counts), np.int32)
    starts[: len(counts) + 1] = np.cumsum([0, *counts])

    def padded(values: np.ndarray, size: int, filler: int) -> np.ndarray:
        return np.pad(values, (0, size - len(values)), constant_values=filler).astype(np.int32)

    batch = PagedBatch(
        rows=padded(of_token, tokens, rows),
        positions=padded(positions, tokens, 0),
        block_tables=tables,
        starts=starts,
        lengths=padded(np.array(lengths), rows, 0),
        count=np.array([len(lengths)], np.int32),
        prompt_lengths=padded(np.array(lengths), rows, 0),
    )
    return jax.tree.map(jnp.asarray, batch)


def everything(batch: PagedBatch) -> PagedBatch:
    """The same rows with all of their positions as tokens."""
    lengths = [int(n) for n in batch.lengths if n]
    whole = batch_of(lengths, lengths, sum(lengths), len(batch.lengths))
    return whole.replace(block_tables=batch.block_tables)


def filled(batch: PagedBatch, layout: str = HEADS) -> tuple[Pages, np.ndarray, np.ndarray]:
    """Pages that hold random keys and values of every position, and these float32[rows, T, K, H]."""
    whole = everything(batch)
    keys, values = (
        np.random.default_rng(1).normal(size=(2, len(whole.rows), HEADS_KV, WIDTH)).astype(np.float32)
    )
    pages = empty_pages(CONFIG, COUNT, SIZE, layout)
    pages = write_tokens(pages, keys, values, whole, jnp.int32(1), LAYERS)
    split = np.cumsum(np.asarray(batch.lengths))[:-1]
    return pages, np.split(keys, split), np.split(values, split)


CASES = [
    ([9], [9], 16, 2),
    ([9], [1], 1, 1),
    ([5, 13, 8], [1, 1, 1], 8, 4),
    ([5, 13, 8], [2, 13, 1], 24, 4),
    ([16, 4, 17], [1, 4, 9], 16, 3),
]


@pytest.mark.parametrize(("lengths", "counts", "tokens", "rows"), CASES)
def test_written_out_attention_is_that_of_each_sequence(lengths, counts, tokens, rows):
    batch = batch_of(lengths, counts, tokens, rows)
    pages, keys, values = filled(batch)
    q = np.random.default_rng(2).normal(size=(tokens, HEADS_Q, WIDTH)).astype(np.float32)
    found = jax.jit(paged_attention.written_out, static_argnums=4)(q, pages, batch, jnp.int32(1), LAYERS)
    assert found.shape == q.shape
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        part = slice(int(batch.starts[row]), int(batch.starts[row + 1]))
        mask = (np.arange(length) <= np.asarray(batch.positions)[part][:, None])[None]
        expected, _ = attention.dot_product(q[None, part], keys[row][None], values[row][None], mask)
        np.testing.assert_allclose(found[part], expected[0], atol=2e-6)
        assert count == part.stop - part.start


def test_tiles_join_without_a_seam():
    """More tokens of a row than a tile has."""
    lengths, counts = [40], [40]
    width = 3 * paged_attention._TILE
    batch = batch_of(lengths, counts, width, 2)
    pages, keys, values = filled(batch)
    q = np.random.default_rng(2).normal(size=(width, HEADS_Q, WIDTH)).astype(np.float32)
    found = paged_attention.written_out(q, pages, batch, jnp.int32(1), LAYERS)
    mask = np.tri(40, dtype=bool)[None]
    expected, _ = attention.dot_product(q[None, :40], keys[0][None], values[0][None], mask)
    np.testing.assert_allclose(found[:40], expected[0], atol=2e-6)


def test_other_layers_and_pages_stay_as_they_are():
    batch = batch_of([5, 6], [5, 6], 16, 3)
    pages, _, _ = filled(batch)
    assert not np.asarray(pages.keys[:COUNT]).any()
    used = {
        int(page) for row, n in zip(np.asarray(batch.block_tables), (2, 2), strict=False) for page in row[:n]
    }
    written = {page for page in range(COUNT) if np.asarray(pages.keys[COUNT + page]).any()}
    assert written == used


def test_copies_are_of_every_layer_and_padding_is_dropped():
    pages = jax.tree.map(
        lambda part: jnp.arange(part.size, dtype=part.dtype).reshape(part.shape),
        empty_pages(CONFIG, COUNT, SIZE),
    )
    copied = copy_pages(pages, np.array([3, 0], np.int32), np.array([7, COUNT], np.int32), LAYERS)
    for layer in range(LAYERS):
        np.testing.assert_array_equal(copied.keys[layer * COUNT + 7], pages.keys[layer * COUNT + 3])
    same = [page for page in range(LAYERS * COUNT) if page % COUNT != 7]
    np.testing.assert_array_equal(copied.values[np.array(same)], pages.values[np.array(same)])
