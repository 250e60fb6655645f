"""The TPU's kernel for prompts over pages against the written-out product, interpreted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from owl2_jax.inference.merged_projections import merge
from owl2_jax.model import (
    attention,
    modality_projections,
    paged_attention,
    paged_kernels,
    prompt_attention,
    rotary,
)
from owl2_jax.model.config import LoraConfig
from owl2_jax.model.decoder import Decoder
from owl2_jax.model.decoder_layer import DecoderAttention, LayerInputs
from owl2_jax.model.pages import COMBINED, HEADS, PagedBatch, Pages, empty_pages, keys_of, write_tokens
from owl2_jax.parallel import axis_rules
from owl2_jax.parallel.mesh import make_mesh
from owl2_jax.testing import tiny
from tests.model.test_paged_attention import batch_of

LAYERS, SIZE, WIDTH, HELD = 2, 16, 128, 60


def attend(q, angles, pages, batch, interpret=True):
    """Layer 1 by the kernel; q as heads or flat, and so what it returns."""
    flat = jnp.asarray(q).reshape(len(q), -1)
    visited = prompt_attention.visits(batch, len(q))
    layer = jnp.int32(1)
    found = prompt_attention.attend(flat, angles, pages, batch, visited, layer, LAYERS, interpret)
    return found.reshape(q.shape)


# Positions of rows, how many of their last ones are tokens, tokens of the batch, rows of its tables.
ROWS = {
    "whole prompts": ([128, 128], [128, 128], 256, 2),
    "one": ([150], [150], 150, 1),
    "ragged, some begun before, and padding": ([130, 16, 33, 140], [130, 16, 5, 100], 300, 6),
    "a prompt over three blocks amid single tokens": ([9, 160, 70], [1, 160, 1], 200, 3),
    "tokens of nobody": ([20], [20], 400, 4),
}


def filled(lengths, rows, kv_heads, layout=COMBINED):
    """Pages of layer 1 amid what others left, and keys and values float32[rows][length, K, H]."""
    whole = batch_of(lengths, lengths, sum(lengths), rows, SIZE, HELD)
    shape = (2, sum(lengths), kv_heads, WIDTH)
    keys, values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    empty = empty_pages(config(kv_heads, kv_heads), HELD, SIZE, layout)
    left_over = jax.tree.map(lambda part: part + 50, empty)
    pages = write_tokens(left_over, keys, values, whole, jnp.int32(1), LAYERS)
    ends = np.cumsum(lengths)[:-1]
    return pages, np.split(keys, ends), np.split(values, ends)


def config(heads, kv_heads):
    return tiny.tiny_config(
        **{"decoder.width": heads * WIDTH, "decoder.num_heads": heads, "decoder.num_kv_heads": kv_heads,
           "decoder.num_layers": LAYERS}
    )  # fmt: skip


def expected(q, batch, keys, values):
    """Of every token that belongs to a row, in order."""
    found = []
    for row, (key, value) in enumerate(zip(keys, values, strict=True)):
        part = slice(int(batch.starts[row]), int(batch.starts[row + 1]))
        mask = (np.arange(len(key)) <= np.asarray(batch.positions)[part][:, None])[None]
        found.append(attention.dot_product(q[None, part], key[None], value[None], mask)[0][0])
    return np.concatenate(found)


@pytest.mark.parametrize("tile", [128, 512])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (2, 1)])
@pytest.mark.parametrize("case", ROWS)
def test_prompts_see_their_rows_up_to_themselves(case, heads, kv_heads, tile, monkeypatch):
    monkeypatch.setattr(prompt_attention, "_TILE", tile)
    lengths, counts, tokens, rows = ROWS[case]
    batch = batch_of(lengths, counts, tokens, rows, SIZE, HELD)
    pages, keys, values = filled(lengths, rows, kv_heads)
    q = np.random.default_rng(2).normal(size=(tokens, heads, WIDTH)).astype(np.float32)
    found = attend(q, (), pages, batch)
    found, padding = np.split(found.reshape(q.shape), [sum(counts)])
    np.testing.assert_allclose(found, expected(q, batch, keys, values), atol=2e-6)
    assert not padding.any()


def test_what_others_left_behind_a_row_and_in_other_pages_does_not_matter():
    lengths, counts, tokens, rows = ROWS["ragged, some begun before, and padding"]
    batch = batch_of(lengths, counts, tokens, rows, SIZE, HELD)
    pages, keys, values = filled(lengths, rows, 2)
    tables = np.asarray(batch.block_tables).copy()
    needed = [-(-length // SIZE) for length in lengths]
    own = {page for table, count in zip(tables, needed, strict=False) for page in table[:count]}
    others = np.array([page for page in range(HELD) if page not in own])
    for row in range(rows):
        tables[row, (needed + [0] * rows)[row] :] = others[0]
    left = pages.keys.at[HELD + others].set(jnp.nan)
    for row, length in enumerate(lengths):
        if length % SIZE:
            left = left.at[HELD + tables[row, length // SIZE], length % SIZE :].set(jnp.nan)
    pages = Pages(left, None)
    batch = batch.replace(block_tables=jnp.asarray(tables))
    q = np.random.default_rng(2).normal(size=(tokens, 2, WIDTH)).astype(np.float32)
    found = attend(q, (), pages, batch)
    found = found[: sum(counts)].reshape(-1, 2, WIDTH)
    np.testing.assert_allclose(found, expected(q, batch, keys, values), atol=2e-6)


def test_queries_are_turned_on_the_way():
    lengths, counts, tokens, rows = ROWS["ragged, some begun before, and padding"]
    batch = batch_of(lengths, counts, tokens, rows, SIZE, HELD)
    pages, keys, values = filled(lengths, rows, 2)
    q = np.random.default_rng(2).normal(size=(tokens, 2, WIDTH)).astype(np.float32)
    angles = rotary.rope_angles(batch.positions[:, None], WIDTH, 1e4)
    rolled = tuple(angle[:, 0] for angle in rotary.rolled_angles(*angles, WIDTH))
    found = attend(q, rolled, pages, batch)
    turned = rotary.apply_rope(jnp.asarray(q)[:, None], *angles)[:, 0]
    real = sum(counts)
    found = found[:real].reshape(-1, 2, WIDTH)
    np.testing.assert_allclose(found, expected(turned, batch, keys, values), atol=2e-5)


def test_every_device_of_a_mesh_has_its_own_heads():
    lengths, counts, tokens, rows = ROWS["ragged, some begun before, and padding"]
    batch = batch_of(lengths, counts, tokens, rows, SIZE, HELD)
    pages = filled(lengths, rows, 4)[0]
    q = jnp.asarray(np.random.default_rng(2).normal(size=(tokens, 8 * WIDTH)), jnp.float32)
    alone = attend(q, (), pages, batch)
    mesh = make_mesh({"data": 2, "tensor": 4})
    run = jax.jit(axis_rules.activate(mesh)(attend))
    place = lambda x, *axes: jax.device_put(x, jax.NamedSharding(mesh, jax.P(*axes)))
    pages = Pages(place(pages.keys, None, None, "tensor"), None)
    found = run(place(q, None, "tensor"), (), pages, batch)
    assert len(found.sharding.device_set) == 8
    np.testing.assert_allclose(found, alone, atol=1e-6)


@pytest.mark.parametrize("case", ROWS)
@pytest.mark.parametrize("tile", [128, 512])
def test_visits_take_every_token_once(case, tile, monkeypatch):
    monkeypatch.setattr(prompt_attention, "_TILE", tile)
    lengths, counts, tokens, rows = ROWS[case]
    batch = batch_of(lengths, counts, tokens, rows, SIZE, HELD)
    block, row, first, end, offset, seen = map(np.asarray, prompt_attention.visits(batch, tokens))
    size = min(tile, -(-tokens // 128) * 128)
    taken = np.concatenate([np.arange(a, b) for a, b in zip(first, end, strict=True)])
    np.testing.assert_array_equal(taken, np.arange(tokens))
    works = end > first
    assert not seen[~works].any()
    np.testing.assert_array_equal(first[works] // size, block[works])
    np.testing.assert_array_equal((end[works] - 1) // size, block[works])
    assert (np.diff(block) >= 0).all()  # so that a block leaves fast memory once
    for visit in np.flatnonzero(works & (seen > 0)):
        of_visit = slice(first[visit], end[visit])
        assert set(np.asarray(batch.rows)[of_visit]) == {row[visit]}
        positions = np.asarray(batch.positions)[of_visit]
        np.testing.assert_array_equal(np.arange(first[visit], end[visit]) + offset[visit], positions)
        assert seen[visit] == positions[-1] + 1


def test_a_block_sees_no_tile_beyond_its_last_query(monkeypatch):
    monkeypatch.setattr(prompt_attention, "_TILE", 128)
    batch = batch_of([160], [160], 160, 1, SIZE, HELD)
    pages, keys, values = filled([160], 1, 2)
    later = HELD + batch.block_tables[0, 128 // SIZE : 160 // SIZE]
    q = np.random.default_rng(2).normal(size=(160, 2, WIDTH)).astype(np.float32)
    found = attend(q, (), Pages(pages.keys.at[later].set(jnp.nan), None), batch)
    np.testing.assert_allclose(found[:128], expected(q, batch, keys, values)[:128], atol=2e-6)
    assert np.isnan(found[128:]).all()


def test_the_compiler_is_told_of_the_tiles_that_whole_prompts_see():
    """Four prompts of 2048: of 4 x 4 tiles each 10, scores and what they mix."""
    cost = prompt_attention._cost(8192, 4, 2048, 32, 128, 2)
    assert cost.flops == 4 * 10 * 32 * 2 * 2 * 512 * 512 * 128
    begun = prompt_attention._cost(2048, 4, 2048, 32, 128, 2)
    assert begun.flops == 4 * 4 * 32 * 2 * 2 * 512 * 512 * 128
    assert prompt_attention._cost(8192, 1, 2048, 32, 128, 2).flops == cost.flops / 4


LONG = {"tokens": 8192, "rows": 4, "places": 128, "size": 16, "width": 128, "dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("changed", "does"),
    [
        ({}, True),
        ({"attention": "flash"}, True),
        ({"attention": "xla"}, False),
        ({"attention": "splash"}, False),
        ({"platform": "old tpu"}, False),
        ({"platform": "gpu"}, False),
        ({"layout": HEADS}, False),
        ({"width": 64}, False),
        ({"size": 48}, False),
        ({"size": 1, "places": 2048}, True),
        ({"size": 512, "places": 4}, True),
        ({"size": 1024, "places": 2}, False),
        ({"tokens": 2048}, True),
        ({"tokens": 2047}, False),
        ({"rows": 16}, True),
        ({"rows": 17}, False),
        ({"places": 512}, True),
        ({"places": 513}, False),
        ({"places": 1024, "rows": 2}, True),
        ({"places": 1024, "rows": 2, "dtype": "float32"}, False),
        ({"places": 1025, "rows": 1}, False),
    ],
)
def test_long_prompts_have_their_kernel_on_a_tpu(changed, does, monkeypatch):
    case = {**LONG, "platform": "tpu", "layout": COMBINED, "attention": "auto", **changed}
    monkeypatch.setattr(prompt_attention.platforms, "current_platform", lambda: case["platform"])
    owl = config(2, 2).replace(**{"attention": case["attention"], "decoder.width": 2 * case["width"]})
    array = lambda *shape: jax.ShapeDtypeStruct(shape, case["dtype"])
    pages = Pages(array(9, case["size"], 4, 128), None)
    if case["layout"] == HEADS:
        pages = Pages(array(9, 2, 128, case["size"]), array(9, 2, case["size"], 128))
    nothing, tables = array(1), array(case["rows"], case["places"])
    batch = PagedBatch(nothing, nothing, tables, nothing, nothing, nothing, nothing)
    assert prompt_attention.takes(owl, case["tokens"], pages, batch) == does


def test_a_decoder_takes_it_where_nobody_looks_at_probabilities(monkeypatch):
    monkeypatch.setattr(prompt_attention, "_TILE", 128)
    owl = config(2, 2)
    module, batch = Decoder(owl), batch_of([128, 128], [128, 128], 256, 2, SIZE, HELD)
    x, pages = jnp.zeros((256, 1, owl.decoder.width)), filled([128, 128], 2, 2)[0]
    ones = jnp.ones((1, 8), int)
    params = module.init(jax.random.key(0), x[:8].swapaxes(0, 1), ones, ones, None)
    monkeypatch.setattr(prompt_attention.platforms, "current_platform", lambda: "tpu")
    run = functools.partial(module.apply, params, x, None, pages, batch, method="step")
    taken = []
    monkeypatch.setattr(prompt_attention, "attend", lambda q, *others: taken.append(1) or q)
    monkeypatch.setattr(paged_kernels, "ragged", lambda q, *others: q)
    monkeypatch.setattr(paged_attention, "probabilities", lambda q, *others: q)
    run(mutable=["intermediates"])
    assert not taken
    run()
    assert taken


LAYERS_OF = {
    "text": {"count": 0},
    "a token of an image": {"count": 1},
    "tokens of images, and log-n": {"count": 70, "scaled": True},
    "nothing but images": {"count": 256},
    "adapted queries": {"count": 70, "decoder.adaptive": "qkv"},
    "queries alone": {"count": 70, "decoder.adaptive": "q"},
    "keys alone": {"count": 70, "decoder.adaptive": "k"},
    "a plain decoder": {"count": 70, "decoder.adaptive": "none"},
    "shared keys": {"count": 70, "heads": 4},
    "one kernel": {"count": 70, "merged": True},
    "adapters": {"count": 70, "lora": LoraConfig(rank=4)},
    "adapters on integers": {"count": 70, "lora": LoraConfig(rank=4, base="int8")},
}


@pytest.mark.parametrize("padding", [0, 20])
@pytest.mark.parametrize("case", LAYERS_OF)
def test_a_layer_over_prompts_is_the_one_over_the_pages_of_the_reference(case, padding, monkeypatch):
    """Of which some tokens are of images, fewer and more than are projected at a time; never the last one."""
    changed = dict(LAYERS_OF[case])
    count, heads = changed.pop("count"), changed.pop("heads", 2)
    scaled, merged = changed.pop("scaled", False), changed.pop("merged", False)
    tokens, rows = 256, 2
    lengths, counts = [140, 150], [140, 116 - padding]
    batch = batch_of(lengths, counts, tokens, rows, SIZE, HELD)
    owl, draws = config(heads, 2).replace(**{"image_kv": "select", **changed}), np.random.default_rng(3)
    positions = batch.positions[:, None]
    x = jnp.asarray(draws.normal(size=(tokens, 1, owl.decoder.width)), jnp.float32)
    is_image = np.zeros(tokens, bool)
    is_image[draws.permutation(tokens - (count < tokens))[:count]] = True
    sin, cos = rotary.rope_angles(positions, WIDTH, owl.decoder.rope_theta)
    scale = 1.0 + 0.1 * positions[..., None, None] if scaled else None
    inputs = LayerInputs(sin, cos, scale, None, jnp.asarray(is_image)[:, None], None, paged=batch)
    module, layer, found, held = DecoderAttention(owl), jnp.int32(1), {}, {}
    whole = LayerInputs(
        *(angle.swapaxes(0, 1) for angle in (sin, cos)), None, jnp.zeros((1, 1), int), inputs.is_image.T,
        jnp.ones((1, tokens), int),
    )  # fmt: skip
    params = module.init(jax.random.key(0), x.swapaxes(0, 1), whole, False, layer, None, None)
    params = jax.tree_util.tree_map_with_path(  # adapters begin as nothing
        lambda path, leaf: leaf + 0.01 if "lora_b" in jax.tree_util.keystr(path) else leaf, nn.unbox(params)
    )
    monkeypatch.setattr(modality_projections, "_IMAGES_AT_A_TIME", 64)
    kernel = functools.partial(prompt_attention.attend, interpret=True)
    monkeypatch.setattr(prompt_attention, "attend", kernel)
    monkeypatch.setattr(prompt_attention, "_TILE", 128)
    visits = prompt_attention.visits(batch, tokens)
    for layout, visited in ((HEADS, None), (COMBINED, visits)):
        if visited is not None and merged:
            params = {"params": merge(params["params"])}
        pages, inputs = filled(lengths, rows, 2, layout)[0], inputs.replace(visits=visited)
        out = module.apply(params, x, inputs, layout == COMBINED, layer, pages.keys, pages.values)
        found[layout] = out[0][: sum(counts)]
        held[layout] = [
            keys_of(Pages(*out[1:]), table, layer, LAYERS, WIDTH)[:length]
            for table, length in zip(batch.block_tables, lengths, strict=True)
        ]
    np.testing.assert_allclose(found[COMBINED], found[HEADS], atol=2e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), held[COMBINED], held[HEADS])
