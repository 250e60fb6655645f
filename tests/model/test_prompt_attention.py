"""The TPU's kernel for prompts over pages against the written-out product, interpreted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl2_jax.model import attention, modality_projections, paged_kernels, prompt_attention, rotary
from owl2_jax.model.decoder_layer import DecoderAttention, LayerInputs
from owl2_jax.model.pages import COMBINED, HEADS, Pages, empty_pages, keys_of, write_tokens
from owl2_jax.parallel import axis_rules
from owl2_jax.parallel.mesh import make_mesh
from owl2_jax.testing import tiny
from tests.model.test_paged_attention import batch_of

LAYERS, SIZE, WIDTH, HELD = 2, 16, 128, 60
INTERPRETED = functools.partial(prompt_attention.attend, interpret=True)

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
    found = INTERPRETED(jnp.asarray(q).reshape(tokens, -1), (), pages, batch, jnp.int32(1), LAYERS)
    found, padding = np.split(found.reshape(q.shape), [sum(counts)])
    np.testing.assert_allclose(found, expected(q, batch, keys, values), atol=2e-6)
    assert not padding.any()


def test_a_row_reads_no_page_that_is_not_its_own():
    lengths, counts, tokens, rows = ROWS["ragged, some begun before, and padding"]
    batch = batch_of(lengths, counts, tokens, rows, SIZE, HELD)
    pages, keys, values = filled(lengths, rows, 2)
    tables = np.asarray(batch.block_tables).copy()
    needed = [-(-length // SIZE) for length in lengths]
    own = {page for table, count in zip(tables, needed, strict=False) for page in table[:count]}
    others = np.array([page for page in range(HELD) if page not in own])
    for row in range(rows):
        tables[row, (needed + [0] * rows)[row] :] = others[0]
    pages = Pages(pages.keys.at[HELD + others].set(jnp.nan), None)
    batch = batch.replace(block_tables=jnp.asarray(tables))
    q = np.random.default_rng(2).normal(size=(tokens, 2, WIDTH)).astype(np.float32)
    found = INTERPRETED(jnp.asarray(q).reshape(tokens, -1), (), pages, batch, jnp.int32(1), LAYERS)
    found = found[: sum(counts)].reshape(-1, 2, WIDTH)
    np.testing.assert_allclose(found, expected(q, batch, keys, values), atol=2e-6)


def test_queries_are_turned_on_the_way():
    lengths, counts, tokens, rows = ROWS["ragged, some begun before, and padding"]
    batch = batch_of(lengths, counts, tokens, rows, SIZE, HELD)
    pages, keys, values = filled(lengths, rows, 2)
    q = np.random.default_rng(2).normal(size=(tokens, 2, WIDTH)).astype(np.float32)
    angles = rotary.rope_angles(batch.positions[:, None], WIDTH, 1e4)
    rolled = tuple(angle[:, 0] for angle in rotary.rolled_angles(*angles, WIDTH))
    found = INTERPRETED(jnp.asarray(q).reshape(tokens, -1), rolled, pages, batch, jnp.int32(1), LAYERS)
    turned = rotary.apply_rope(jnp.asarray(q)[:, None], *angles)[:, 0]
    real = sum(counts)
    found = found[:real].reshape(-1, 2, WIDTH)
    np.testing.assert_allclose(found, expected(turned, batch, keys, values), atol=2e-5)


def test_every_device_of_a_mesh_has_its_own_heads():
    lengths, counts, tokens, rows = ROWS["ragged, some begun before, and padding"]
    batch = batch_of(lengths, counts, tokens, rows, SIZE, HELD)
    pages = filled(lengths, rows, 4)[0]
    q = jnp.asarray(np.random.default_rng(2).normal(size=(tokens, 8 * WIDTH)), jnp.float32)
    alone = INTERPRETED(q, (), pages, batch, jnp.int32(1), LAYERS)
    mesh = make_mesh({"data": 2, "tensor": 4})
    run = jax.jit(axis_rules.activate(mesh)(INTERPRETED), static_argnums=5)
    place = lambda x, *axes: jax.device_put(x, jax.NamedSharding(mesh, jax.P(*axes)))
    pages = Pages(place(pages.keys, None, None, "tensor"), None)
    found = run(place(q, None, "tensor"), (), pages, batch, jnp.int32(1), LAYERS)
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


@pytest.mark.parametrize(
    ("tokens", "places", "size", "width", "dtype", "does"),
    [
        (2048, 1024, 16, 128, "bfloat16", True),
        (2048, 1025, 16, 128, "bfloat16", False),
        (2048, 512, 16, 128, "float32", True),
        (2048, 512, 16, 256, "bfloat16", True),
        (2048, 128, 16, 64, "bfloat16", False),
        (2047, 128, 16, 128, "bfloat16", False),
        (2048, 43, 48, 128, "bfloat16", False),
        (2048, 4, 512, 128, "bfloat16", True),
        (2048, 2048, 1, 128, "bfloat16", True),
    ],
)
def test_rows_that_lie_in_fast_memory_and_have_a_block_of_tokens_each(
    tokens, places, size, width, dtype, does
):
    assert prompt_attention.fits(tokens, (4, places), size, width, dtype) == does


@pytest.mark.parametrize(
    ("platform", "tokens", "layout", "does"),
    [
        ("tpu", 1024, COMBINED, True),
        ("tpu", 1023, COMBINED, False),
        ("tpu", 1024, HEADS, False),
        ("old tpu", 1024, COMBINED, False),
        ("gpu", 1024, COMBINED, False),
    ],
)
def test_long_prompts_have_their_kernel_on_a_tpu(platform, tokens, layout, does, monkeypatch):
    monkeypatch.setattr(paged_kernels.attention_kernels, "current_platform", lambda: platform)
    batch = batch_of([128, 128], [128, 128], 256, 2, SIZE, HELD)
    assert paged_kernels.are_prompts(tokens, WIDTH, filled([128], 2, 2, layout)[0], batch) == does


@pytest.mark.parametrize(
    ("count", "adaptive", "scaled"),
    [(0, "full", False), (1, "full", False), (70, "full", True), (256, "full", False), (70, "qkv", False),
     (70, "q", False), (70, "k", False), (70, "none", False)],
)  # fmt: skip
def test_a_layer_over_prompts_is_the_one_over_the_pages_of_the_reference(
    count, adaptive, scaled, monkeypatch
):
    """Of which some tokens are of images, fewer and more than are projected at a time."""
    lengths, counts, tokens, rows = [140, 150], [140, 100], 256, 2
    batch = batch_of(lengths, counts, tokens, rows, SIZE, HELD)
    owl = config(2, 2).replace(**{"decoder.adaptive": adaptive, "image_kv": "select"})
    draws = np.random.default_rng(3)
    positions = batch.positions[:, None]
    x = jnp.asarray(draws.normal(size=(tokens, 1, owl.decoder.width)), jnp.float32)
    is_image = np.zeros(tokens, bool)
    is_image[draws.permutation(tokens)[:count]] = True
    sin, cos = rotary.rope_angles(positions, WIDTH, owl.decoder.rope_theta)
    scale = 1.0 + 0.1 * positions[..., None, None] if scaled else None
    inputs = LayerInputs(sin, cos, scale, None, jnp.asarray(is_image)[:, None], None, paged=batch)
    module, layer, found, held = DecoderAttention(owl), jnp.int32(1), {}, {}
    whole = LayerInputs(
        *(angle.swapaxes(0, 1) for angle in (sin, cos)), None, jnp.zeros((1, 1), int), inputs.is_image.T,
        jnp.ones((1, tokens), int),
    )  # fmt: skip
    params = module.init(jax.random.key(0), x.swapaxes(0, 1), whole, False, layer, None, None)
    monkeypatch.setattr(modality_projections, "_IMAGES_AT_A_TIME", 64)
    monkeypatch.setattr(prompt_attention, "attend", INTERPRETED)
    monkeypatch.setattr(prompt_attention, "_TILE", 128)
    monkeypatch.setattr(paged_kernels.attention_kernels, "current_platform", lambda: "tpu")
    for layout in (HEADS, COMBINED):
        pages = filled(lengths, rows, 2, layout)[0]
        out = module.apply(params, x, inputs, layout == COMBINED, layer, pages.keys, pages.values)
        found[layout] = out[0][: sum(counts)]
        held[layout] = [
            keys_of(Pages(*out[1:]), table, layer, LAYERS, WIDTH)[:length]
            for table, length in zip(batch.block_tables, lengths, strict=True)
        ]
    np.testing.assert_allclose(found[COMBINED], found[HEADS], atol=2e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), held[COMBINED], held[HEADS])
    # The layer did take the kernel, and not the reference: no CPU runs it.
    monkeypatch.setattr(prompt_attention, "attend", functools.partial(INTERPRETED, interpret=False))
    with pytest.raises(ValueError, match="interpret"):
        module.apply(params, x, inputs, True, layer, pages.keys, pages.values)
