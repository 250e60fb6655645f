"""Our flash attention for TPU against the written-out product, interpreted."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from owl2_jax.core.errors import Owl2Error
from owl2_jax.model import attention, attention_kernels, flash_attention, flash_plan, presets, remat, rotary
from owl2_jax.model.layers import side_by_side
from owl2_jax.model.vision import VisionEncoder
from owl2_jax.parallel.axis_rules import activate
from owl2_jax.parallel.mesh import make_mesh
from owl2_jax.testing import tiny
from tests.model.attention_cases import assert_equal_to_reference, case, outputs_and_gradients

FLASH = lambda *arguments: attention_kernels.flash(*arguments, interpret=True)


@pytest.mark.parametrize(
    ("length", "heads", "kv_heads", "width"),
    [(256, 8, 8, 128), (640, 4, 2, 128), (1024, 1, 1, 128), (384, 2, 1, 256), (200, 3, 3, 128),
     (1100, 2, 1, 128), (769, 2, 1, 128)],
)  # fmt: skip
def test_flash_equals_the_written_out_product(length, heads, kv_heads, width):
    """Of one tile and many, of rows that end within one, of several heads at a time, of shared keys."""
    assert_equal_to_reference(FLASH, *case(length=length, heads=heads, kv_heads=kv_heads, width=width))


def test_flash_of_padding_before_a_row_and_alone_equals_the_written_out_product():
    """Padding before a row sees itself alone; a row without any token sees what is before a token."""
    q, k, v, segments = case(batch=3, length=300, heads=1, kv_heads=1, width=128)
    segments = segments.at[0, :140].set(0).at[1].set(0).at[2].set(1)
    mask = attention.causal_segment_mask(attention.query_segments(segments), segments)
    want = attention.dot_product(q, k, v, mask)[0]
    np.testing.assert_allclose(FLASH(q, k, v, segments), want, atol=2e-5, rtol=2e-5)


def test_flash_in_half_precision_is_as_near_to_the_exact_product_as_the_written_out_one():
    exact = case(length=512, width=128)
    halved = [x.astype(jnp.bfloat16) for x in exact[:3]]
    want = outputs_and_gradients(attention_kernels.xla, *exact)
    got, written = (
        outputs_and_gradients(kernel, *halved, exact[3]) for kernel in (FLASH, attention_kernels.xla)
    )

    def distance(found, wanted):
        found, wanted = (np.asarray(x, np.float32) for x in (found, wanted))
        return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)

    for mine, other, wanted in zip(*map(jax.tree.leaves, (got, written, want)), strict=True):
        assert mine.dtype == jnp.bfloat16
        assert 0 < distance(mine, wanted) < max(1.2 * distance(other, wanted), 0.01)


def test_flash_on_a_mesh_equals_the_written_out_product():
    mesh = make_mesh({"fsdp": 2, "tensor": 2}, jax.devices()[:4])
    arguments = jax.device_put(case(width=128), jax.NamedSharding(mesh, PartitionSpec()))
    assert_equal_to_reference(activate(mesh)(FLASH), *arguments)


@pytest.mark.parametrize(
    ("length", "heads", "width"),
    [(100, 2, 64), (256, 8, 32), (257, 4, 64), (577, 2, 64), (1025, 1, 128), (1537, 2, 64)],
)
def test_flash_without_a_mask_equals_the_written_out_product(length, heads, width):
    """What fills the last tile is neither seen nor given a gradient; narrow heads share registers."""
    q, k, v, _ = case(length=length, heads=heads, kv_heads=heads, width=width)
    weights = jnp.cos(jnp.arange(q.shape[-1]))

    def flash(q, k, v):
        flat = (part.reshape(*part.shape[:2], -1) for part in (q, k, v))
        return attention_kernels.flash_everywhere(*flat, width, interpret=True).reshape(q.shape)

    def gradients(kernel):
        def loss(*parts):
            context = kernel(*parts)
            return (context * weights).sum(), context

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)

    got, want = gradients(flash), gradients(lambda q, k, v: attention.dot_product(q, k, v, None)[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5), got, want)


@pytest.mark.parametrize(
    ("length", "heads", "kv_heads", "width"), [(200, 4, 2, 128), (600, 2, 2, 128), (384, 3, 1, 256)]
)
def test_flash_turns_queries_and_keys_and_their_gradients(length, heads, kv_heads, width):
    """What is read of the angles beyond the row is anything, as of all else."""
    q, k, v, segments = case(length=length, heads=heads, kv_heads=kv_heads, width=width)
    positions = jnp.stack([jnp.arange(length), jnp.arange(length) + 7])
    angles = rotary.rope_angles(positions, width, 1e4)

    def turning(q, k, v, segments):
        flat = (side_by_side(part) for part in (q, k, v))
        rolled = rotary.rolled_angles(*angles, width)
        return attention_kernels.flash_turning(*flat, rolled, segments, width, True).reshape(q.shape)

    def turned(q, k, v, segments):
        q, k = (rotary.apply_rope(part, *angles) for part in (q, k))
        return attention_kernels.xla(q, k, v, segments)

    got, want = (outputs_and_gradients(kernel, q, k, v, segments) for kernel in (turning, turned))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5), got, want)


@pytest.mark.parametrize(
    ("segments", "first", "last"),
    [
        ([1, 1, 2, 2, 2, 0], [0, 0, 2, 2, 2, 2], [0, 1, 2, 3, 4, 4]),
        ([0, 0, 3, 3, 5, 5], [0, 0, 2, 2, 4, 4], [0, 1, 2, 3, 4, 5]),
        ([0, 0, 0], [0, 0, 0], [0, 1, 2]),
    ],
)
def test_spans_are_what_the_causal_segment_mask_leaves(segments, first, last):
    ids = jnp.asarray([segments])
    found = flash_attention.causal_spans(ids)
    np.testing.assert_array_equal(found[0], [[first]])
    np.testing.assert_array_equal(found[1], [[last]])
    mask = attention.causal_segment_mask(attention.query_segments(ids), ids)
    keys = jnp.arange(len(segments))
    spans = (keys >= found[0][0, 0][:, None]) & (keys <= found[1][0, 0][:, None])
    np.testing.assert_array_equal(mask[0], spans)


@pytest.mark.parametrize(
    ("length", "causal", "tile", "padded"),
    [(2048, True, 512, 2048), (256, True, 256, 256), (2050, True, 384, 2304), (4096, True, 512, 4096),
     (3700, True, 640, 3840), (1025, False, 384, 1152), (257, False, 384, 384), (577, False, 640, 640),
     (1, True, 128, 128)],
)  # fmt: skip
def test_tiles_leave_little_that_is_computed_in_vain(length, causal, tile, padded):
    x = jax.ShapeDtypeStruct((1, length, 256), jnp.bfloat16)
    plan = flash_plan.plan(x, x, 128, causal)
    assert (plan.tile, plan.padded) == (tile, padded)


@pytest.mark.parametrize(
    ("length", "heads", "kv_heads", "head_dim", "at_a_time", "grid"),
    [(2048, 32, 32, 128, 1, (3, 32, 1)), (256, 32, 32, 128, 8, (3, 4, 1)), (256, 32, 8, 128, 1, (3, 8, 4)),
     (257, 16, 16, 64, 8, (3, 2, 1)), (1025, 16, 16, 64, 2, (3, 8, 1)), (256, 32, 32, 256, 4, (3, 8, 1))],
)  # fmt: skip
def test_short_rows_share_a_step_and_narrow_heads_a_register(
    length, heads, kv_heads, head_dim, at_a_time, grid
):
    q, k = (jax.ShapeDtypeStruct((3, length, count * head_dim), jnp.bfloat16) for count in (heads, kv_heads))
    plan = flash_plan.plan(q, k, head_dim, True)
    assert sum(len(members) for _, members in plan.groups) == at_a_time
    assert plan.grid == grid


@pytest.mark.parametrize(("policy", "kernels"), [("none", 2), ("products", 2), ("context", 2), ("full", 3)])
def test_a_policy_that_keeps_the_context_leaves_no_second_forward_kernel(policy, kernels):
    """Of the recomputation's kernel nothing is read then, so that no compiler keeps it."""

    def layer(x, weights, segments):
        flat = (checkpoint_name(part, remat.PROJECTIONS) for part in jnp.split(x @ weights, 3, -1))
        return attention_kernels.flash_turning(*flat, (), segments, 128)

    kept = remat.policy(policy)
    run = layer if kept is None else jax.checkpoint(layer, policy=kept, prevent_cse=False)
    gradient = jax.grad(lambda *arguments: run(*arguments).sum(), argnums=1)
    program = jax.make_jaxpr(gradient)(jnp.ones((1, 256, 128)), jnp.ones((128, 384)), jnp.ones((1, 256), int))
    assert read_kernels(program.jaxpr) == kernels


def read_kernels(jaxpr):
    """Kernels of a program of which a later step or the caller reads something."""
    read = {id(value) for each in jaxpr.eqns for value in each.invars} | set(map(id, jaxpr.outvars))
    found = 0
    for each in jaxpr.eqns:
        if each.primitive.name == "pallas_call":
            found += any(id(value) in read for value in each.outvars)
        elif each.primitive.name in ("remat2", "checkpoint"):
            found += read_kernels(each.params["jaxpr"])
    return found


def test_heads_that_no_device_has_whole_are_refused():
    q, k, v, segments = case(heads=4, kv_heads=2, width=128)
    mesh = make_mesh({"fsdp": 2, "tensor": 4}, jax.devices()[:8])
    with pytest.raises(Owl2Error, match="4 heads of queries and 2 of keys do not divide over 4 devices"):
        activate(mesh)(FLASH)(q, k, v, segments)
    flat = [side_by_side(part) for part in (q, k, v)]
    for channels in (64, 96, 32):
        with pytest.raises(Owl2Error, match=f"in heads of {channels}"):
            attention_kernels.flash_everywhere(*flat, channels, True)
    alone = [part[..., :64] for part in flat[1:]]
    with pytest.raises(Owl2Error, match="found 64 channels of queries"):
        attention_kernels.flash_everywhere(alone[0], *alone, 64, True)


@pytest.mark.parametrize(
    ("name", "length", "flash"),
    [("flash", 1025, True), ("flash", 257, True), ("flash", 4097, False), ("splash", 1025, True),
     ("xla", 1025, False), ("cudnn", 1025, False), ("auto", 1025, False)],
)  # fmt: skip
def test_images_go_through_flash_where_text_has_a_kernel_for_tpu(name, length, flash, monkeypatch):
    """On a CPU "auto" is the written-out product; on a TPU the text may be too long for flash."""
    config = presets.preset("owl2_7b").replace(attention=name)
    assert attention_kernels.sees_by_flash(config, 2, length) == flash
    over = [{"fsdp": 2}, {"fsdp": 4}, {"fsdp": 2, "tensor": 4}, {"fsdp": 1, "tensor": 8}]
    found = [
        activate(make_mesh(sizes, jax.devices()[: math.prod(sizes.values())]))(
            attention_kernels.sees_by_flash
        )
        for sizes in over
    ]
    assert [wrapped(config, 2, length) for wrapped in found] == [flash, False, flash, flash]
    for platform in ("tpu", "old tpu", "gpu"):
        monkeypatch.setattr(attention_kernels.platforms, "current_platform", lambda name=platform: name)
        wanted = {"tpu": flash or (name == "auto" and length < 4096), "old tpu": False, "gpu": flash}
        assert attention_kernels.sees_by_flash(config, 2, length) == wanted[platform]
    narrow = config.replace(vision=dataclasses.replace(config.vision, width=64, num_heads=1))
    assert not attention_kernels.sees_by_flash(narrow, 2, length)


def test_vision_encoder_with_flash_equals_the_written_out_product(monkeypatch):
    """Queries, keys and values are then products by themselves."""
    interpreted, calls = functools.partial(attention_kernels.flash_everywhere, interpret=True), []

    def counted(q, *others):
        calls.append(q.shape)
        return interpreted(q, *others)

    monkeypatch.setattr(attention_kernels, "flash_everywhere", counted)
    config = tiny.tiny_config()
    size = 11 * config.vision.patch_size
    vision = dataclasses.replace(config.vision, image_size=size, width=256, num_heads=4)
    config = config.replace(vision=vision)
    images = jax.random.normal(jax.random.key(1), (2, size, size, 3))
    params = nn.unbox(VisionEncoder(config).init(jax.random.key(0), images)["params"])
    mesh = make_mesh({"fsdp": 2, "tensor": 2}, jax.devices()[:4])
    placed = jax.device_put((params, images), jax.NamedSharding(mesh, PartitionSpec()))

    def run(name, arguments, wrap):
        def loss(params, images):
            features = VisionEncoder(config.replace(attention=name)).apply({"params": params}, images)
            return (features * jnp.cos(jnp.arange(features.shape[-1]))).sum(), features

        return jax.jit(wrap(jax.grad(loss, has_aux=True)))(*arguments)

    got, features = run("flash", placed, activate(mesh))
    assert set(calls) == {(2, 11**2 + 1, 256)}
    calls.clear()
    want, expected = run("xla", (params, images), lambda step: step)
    assert not calls
    np.testing.assert_allclose(features, expected, atol=1e-4, rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * max(np.abs(b).max(), 1), rtol=1e-3),
        got,
        want,
    )
