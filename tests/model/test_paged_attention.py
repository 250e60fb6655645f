"""Attention over pages against the product written out over whole sequences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl2_jax.model import attention, paged_attention, paged_kernels
from owl2_jax.model.pages import COMBINED, HEADS, PagedBatch, Pages, copy_pages, empty_pages, write_tokens
from owl2_jax.testing import tiny

LAYERS, COUNT, SIZE, HEADS_Q, HEADS_KV, WIDTH = 2, 12, 4, 4, 2, 8
CONFIG = tiny.tiny_config(**{"decoder.width": HEADS_Q * WIDTH, "decoder.num_layers": LAYERS})


def batch_of(
    lengths: list[int], counts: list[int], tokens: int, rows: int, size: int = SIZE, held: int = COUNT
) -> PagedBatch:
    """Rows of `lengths` positions whose last `counts` are tokens, on pages in any order."""
    width = 10
    pages = np.random.default_rng(0).permutation(held)
    tables = np.zeros((rows, width), np.int32)
    first = 0
    for row, length in enumerate(lengths):
        needed = -(-length // size)
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


# Page size, heads and those of keys and values: as many, grouped, one for all.
SHAPES = [(4, 4, 4), (8, 6, 2), (16, 4, 1)]
RAGGED = ([1, 16, 33, 20], [1, 16, 5, 1], 24, 5)


def check_ragged_rows(layout: str, size: int, heads: int, kv_heads: int, tolerance: float) -> None:
    """Rows of all kinds side by side, one of them on pages of another, amid what earlier sequences left."""
    lengths, _, tokens, rows = RAGGED
    batch, held, width = batch_of(*RAGGED, size, held=20), 20, 16
    whole = batch_of(lengths, lengths, sum(lengths), rows, size, held)
    # The last row begins as the third.
    tables = np.asarray(batch.block_tables).copy()
    shared = lengths[3] // size
    tables[3, :shared] = tables[2, :shared]
    batch, whole = (one.replace(block_tables=jnp.asarray(tables)) for one in (batch, whole))
    config = tiny.tiny_config(
        **{"decoder.width": heads * width, "decoder.num_heads": heads, "decoder.num_kv_heads": kv_heads,
           "decoder.num_layers": LAYERS}
    )  # fmt: skip
    keys, values = np.random.default_rng(1).normal(size=(2, sum(lengths), kv_heads, width)).astype(np.float32)
    starts = np.cumsum([0, *lengths])
    for part in (keys, values):
        part[starts[3] : starts[3] + shared * size] = part[starts[2] : starts[2] + shared * size]
    left_over = jax.tree.map(lambda part: part + 50, empty_pages(config, held, size, layout))
    pages = write_tokens(left_over, keys, values, whole, jnp.int32(1), LAYERS)
    q = np.random.default_rng(2).normal(size=(tokens, heads, width)).astype(np.float32)
    # What the TPU's authors write out cannot be traced.
    attend = paged_kernels.attend if layout == COMBINED else jax.jit(paged_kernels.attend, static_argnums=4)
    found = attend(jnp.asarray(q), pages, batch, jnp.int32(1), LAYERS)
    for row, length in enumerate(lengths):
        part, of_row = (
            slice(int(batch.starts[row]), int(batch.starts[row + 1])),
            slice(*starts[row : row + 2]),
        )
        mask = (np.arange(length) <= np.asarray(batch.positions)[part][:, None])[None]
        expected, _ = attention.dot_product(q[None, part], keys[None, of_row], values[None, of_row], mask)
        np.testing.assert_allclose(found[part], expected[0], atol=tolerance)


@pytest.mark.parametrize(("size", "heads", "kv_heads"), SHAPES)
def test_ragged_rows_amid_what_others_left(size, heads, kv_heads):
    check_ragged_rows(HEADS, size, heads, kv_heads, 2e-6)


CASES = [
    ([9], [9], 16, 2),
    ([9], [1], 1, 1),
    ([5, 13, 8], [1, 1, 1], 8, 4),
    ([5, 13, 8], [1, 1, 1], 4, 4),
    ([5, 13, 8], [2, 1, 1], 4, 4),
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


@pytest.mark.parametrize("together", [2, 3, 64])
def test_splits_of_all_lengths_make_up_each_answer(together, monkeypatch):
    """Splits of two pages: whole ones, last ones of every length, and rows that fill one exactly."""
    monkeypatch.setattr(paged_attention, "_SPLIT", 2)
    monkeypatch.setattr(paged_attention, "_TOGETHER", together)
    monkeypatch.setattr(paged_attention, "_SHARED_PAGE", 0)
    lengths = [1, 33, 8, 4, 9, 16, 2]
    batch = batch_of(lengths, [1] * 7, 8, 8, held=24)
    keys, values = np.random.default_rng(1).normal(size=(2, sum(lengths), HEADS_KV, WIDTH)).astype(np.float32)
    whole = batch_of(lengths, lengths, sum(lengths), 8, held=24)
    left_over = jax.tree.map(lambda part: part + 50, empty_pages(CONFIG, 24, SIZE))
    pages = write_tokens(left_over, keys, values, whole, jnp.int32(1), LAYERS)
    q = np.random.default_rng(2).normal(size=(8, HEADS_Q, WIDTH)).astype(np.float32)
    found = jax.jit(paged_attention.written_out, static_argnums=4)(q, pages, batch, jnp.int32(1), LAYERS)
    ends = np.cumsum(lengths)
    for row, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        of_row = np.s_[None, end - length : end]
        expected, _ = attention.dot_product(
            q[None, row : row + 1], keys[of_row], values[of_row], np.ones((1, 1, length), bool)
        )
        np.testing.assert_allclose(found[row], expected[0, 0], atol=2e-6)
    np.testing.assert_array_equal(found[7], 0)


@pytest.mark.parametrize("count", [1, 32, 37, 64, 80])
def test_a_sum_spelled_out_is_the_sum(count):
    terms = np.random.default_rng(0).normal(size=(3, count, 4)).astype(np.float32)
    np.testing.assert_allclose(paged_attention._sum(terms, 1), terms.sum(1, dtype=np.float64), atol=1e-5)


def test_padding_between_tokens_reads_nothing_and_gets_zeros():
    batch = batch_of([5, 13, 8], [1, 1, 1], 4, 4)
    pages, _, _ = filled(batch)
    q = jnp.ones((4, HEADS_Q, WIDTH))
    every = paged_attention.written_out(q, pages, batch, jnp.int32(1), LAYERS)
    ended = batch.replace(rows=batch.rows.at[1].set(4))
    found = paged_attention.written_out(q, pages, ended, jnp.int32(1), LAYERS)
    np.testing.assert_array_equal(found, every.at[1].set(0))
    assert np.asarray(every[1]).any()


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
