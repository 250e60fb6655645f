"""Kernels over pages against the written-out reference."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.gpu import paged_attention as gpu_library
from jax.experimental.pallas.ops.tpu import ragged_paged_attention as library
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import kernel

from owl2_jax.model import attention, decoder_layer, paged_attention, paged_kernels, rotary
from owl2_jax.model.decoder_layer import DecoderAttention, LayerInputs
from owl2_jax.model.pages import (
    BY_HEAD,
    COMBINED,
    HEADS,
    Pages,
    copy_pages,
    empty_pages,
    keys_of,
    write_pairs,
)
from owl2_jax.parallel import axis_rules
from owl2_jax.parallel.mesh import make_mesh
from tests.model.test_paged_attention import (
    CASES,
    CONFIG,
    COUNT,
    HEADS_Q,
    LAYERS,
    SHAPES,
    SIZE,
    WIDTH,
    batch_of,
    check_ragged_rows,
    filled,
)


def reference(q, pages, lengths, tables, starts, count, *, sm_scale, **sizes):
    """The kernel as its authors write it out: no interpreter of today runs the kernel itself."""
    kernel.static_validate_inputs(q, pages, lengths, tables, starts, count, sm_scale=sm_scale, **sizes)
    return kernel.ref_ragged_paged_attention(q, pages, lengths, tables, starts, count, sm_scale=sm_scale)


@pytest.mark.parametrize(("lengths", "counts", "tokens", "rows"), CASES)
def test_ragged_kernel_of_the_tpu_is_the_reference(lengths, counts, tokens, rows, monkeypatch):
    monkeypatch.setattr(library, "ragged_paged_attention", reference)
    batch = batch_of(lengths, counts, tokens, rows)
    q = jnp.asarray(np.random.default_rng(2).normal(size=(tokens, HEADS_Q, WIDTH)), jnp.float32)
    expected = paged_attention.written_out(q, filled(batch)[0], batch, jnp.int32(1), LAYERS)
    found = paged_kernels.attend(q, filled(batch, COMBINED)[0], batch, jnp.int32(1), LAYERS)
    real = sum(counts)
    np.testing.assert_allclose(found[:real], expected[:real], atol=2e-5)


@pytest.mark.parametrize(
    ("tokens", "rows", "places", "queries", "keys"),
    [
        (32, 32, 128, 32, 512),
        (544, 32, 128, 32, 512),
        (8 * 128, 8, 128, 128, 512),
        (8 * 128 - 8, 8, 128, 32, 512),
        (8, 8, 4, 8, 16),
    ],
    ids=["answers", "answers and a prompt", "prompts", "short prompts", "few"],
)
def test_prompts_read_their_keys_less_often(tokens, rows, places, queries, keys, monkeypatch):
    seen = {}

    def kernel(q, *others, **sizes):
        seen.update(sizes)
        return q

    monkeypatch.setattr(library, "ragged_paged_attention", kernel)
    size, heads, integers = 4 if places == 4 else 16, 2, jnp.int32
    paged_kernels._ragged_local(
        jnp.zeros((tokens, heads, 128)),
        jnp.zeros((places, size, 2 * heads, 128)),
        jnp.zeros(rows, integers),
        jnp.zeros((rows, places), integers),
        jnp.zeros(rows + 1, integers),
        jnp.zeros(1, integers),
    )
    found = seen["num_queries_per_block"], seen["num_kv_pages_per_block"] * size
    assert found == (queries, keys)


@pytest.mark.parametrize(("lengths", "counts", "tokens", "rows"), CASES)
def test_kernel_of_the_gpu_is_the_product_written_out(lengths, counts, tokens, rows, monkeypatch):
    """In interpret mode, with blocks of two pages and all splits that there can be."""
    interpreted = functools.partial(gpu_library.paged_attention, interpret=True)
    monkeypatch.setattr(gpu_library, "paged_attention", interpreted)
    monkeypatch.setattr(paged_kernels, "_KEYS_AT_A_TIME", 8)
    batch = batch_of(lengths, counts, tokens, rows)
    pages, keys, values = filled(batch, BY_HEAD)
    q = jnp.asarray(np.random.default_rng(2).normal(size=(tokens, HEADS_Q, WIDTH)), jnp.float32)
    found = paged_kernels.attend(q, pages, batch, jnp.int32(1), LAYERS)
    assert np.isfinite(found).all()
    for row, length in enumerate(lengths):
        part = slice(int(batch.starts[row]), int(batch.starts[row + 1]))
        mask = (np.arange(length) <= np.asarray(batch.positions)[part][:, None])[None]
        expected, _ = attention.dot_product(q[None, part], keys[row][None], values[row][None], mask)
        np.testing.assert_allclose(found[part], expected[0], atol=2e-6)


@pytest.mark.parametrize(("size", "heads", "kv_heads"), SHAPES)
def test_ragged_rows_amid_what_others_left(size, heads, kv_heads, monkeypatch):
    interpreted = functools.partial(gpu_library.paged_attention, interpret=True)
    monkeypatch.setattr(gpu_library, "paged_attention", interpreted)
    monkeypatch.setattr(paged_kernels, "_KEYS_AT_A_TIME", 16)
    check_ragged_rows(BY_HEAD, size, heads, kv_heads, 2e-6)
    monkeypatch.setattr(library, "ragged_paged_attention", reference)
    check_ragged_rows(COMBINED, size, heads, kv_heads, 2e-5)


def test_pages_by_head_are_written_and_copied_as_the_others():
    batch = batch_of([5, 13], [5, 13], 24, 3)
    plain, by_head = filled(batch)[0], filled(batch, BY_HEAD)[0]
    sources, targets = np.array([3, 0], np.int32), np.array([7, COUNT], np.int32)
    plain, by_head = (copy_pages(pages, sources, targets, LAYERS) for pages in (plain, by_head))
    keys = plain.keys.swapaxes(2, 3)
    for part, other in zip((keys, plain.values), (by_head.keys, by_head.values), strict=True):
        np.testing.assert_array_equal(part, other.transpose(1, 2, 0, 3, 4).reshape(part.shape))
    assert (plain.page_size, by_head.page_size) == (SIZE, SIZE)


@pytest.mark.parametrize(
    ("platform", "head_dim", "page_size", "layout"),
    [
        ("tpu", 80, 16, COMBINED),
        ("cpu", 128, 16, HEADS),
        ("gpu", 128, 16, BY_HEAD),
        ("gpu", 80, 16, HEADS),
        ("gpu", 8, 16, HEADS),
        ("gpu", 128, 24, HEADS),
    ],
)
def test_layouts_are_those_of_the_kernels(platform, head_dim, page_size, layout):
    assert paged_kernels.layout(platform, head_dim, page_size) == layout


def test_combined_pages_hold_keys_and_values_of_a_head_side_by_side():
    batch = batch_of([5], [5], 8, 2)
    pages, keys, values = filled(batch, COMBINED)
    assert pages.values is None
    count = pages.keys.shape[0] // LAYERS
    found = pages.keys[count + int(batch.block_tables[0, 0])]  # [page_size, 2 K, H]
    np.testing.assert_array_equal(found[:, 0::2, :WIDTH], keys[0][:4])
    np.testing.assert_array_equal(found[:, 1::2, :WIDTH], values[0][:4])
    assert not np.asarray(found[:, :, WIDTH:]).any()


@pytest.mark.parametrize(("scaled", "most_as_one"), [(False, 511), (True, 511), (True, 0)])
def test_a_layer_over_the_pages_of_a_tpu_is_the_one_over_those_of_the_reference(
    scaled, most_as_one, monkeypatch
):
    monkeypatch.setattr(library, "ragged_paged_attention", reference)
    monkeypatch.setattr(decoder_layer, "_TOKENS_TURNED_AS_ONE", most_as_one)
    batch, decoder = batch_of(*CASES[0]), CONFIG.decoder
    positions = batch.positions[:, None]
    x = jnp.asarray(np.random.default_rng(3).normal(size=(*positions.shape, decoder.width)), jnp.float32)
    sin, cos = rotary.rope_angles(positions, decoder.head_dim, decoder.rope_theta)
    scale = 1.0 + 0.1 * positions[..., None, None] if scaled else None
    inputs = LayerInputs(sin, cos, scale, None, None, None, paged=batch)
    module, layer = DecoderAttention(CONFIG), jnp.int32(1)
    first = filled(batch)[0]
    params = module.init(jax.random.key(0), x, inputs, False, layer, first.keys, first.values)
    found, keys = {}, {}
    for layout in (HEADS, COMBINED):
        pages = filled(batch, layout)[0]
        out = module.apply(params, x, inputs, layout == COMBINED, layer, pages.keys, pages.values)
        found[layout] = out[0][: int(batch.starts[-1])]
        pages, table = Pages(*out[1:]), batch.block_tables[0]
        keys[layout] = keys_of(pages, table, layer, LAYERS, decoder.head_dim)
    np.testing.assert_allclose(found[COMBINED], found[HEADS], atol=2e-5)
    np.testing.assert_allclose(keys[COMBINED], keys[HEADS], atol=1e-6)


def test_pairs_over_eight_devices_are_written_as_on_one():
    batch, draws = batch_of(*CASES[0]), np.random.default_rng(4)
    config = CONFIG.replace(**{"decoder.num_kv_heads": 4})
    q, k, v = (jnp.asarray(draws.normal(size=(batch.rows.size, 1, 4, WIDTH)), jnp.float32) for _ in range(3))
    sin, cos = rotary.rope_angles(batch.positions[:, None], WIDTH, 10000.0)

    def write(q, k, v):
        turned, pairs = rotary.rotate_pairs(q, k, v, sin, cos, None)
        empty = empty_pages(config, COUNT, SIZE, COMBINED)
        return turned, write_pairs(empty, pairs[:, 0], batch, jnp.int32(1), LAYERS).keys

    mesh = make_mesh({"data": 2, "tensor": 4})
    by_heads = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, None, "tensor"))
    parts = [jax.device_put(part, by_heads) for part in (q, k, v)]
    over_eight = jax.jit(axis_rules.activate(mesh)(write))(*parts)
    assert len(over_eight[1].sharding.device_set) == 8
    jax.tree.map(np.testing.assert_array_equal, over_eight, jax.jit(write)(q, k, v))
