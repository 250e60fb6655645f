"""Attention kernels against the written-out product."""

import dataclasses
import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.model import attention, attention_kernels, presets
from owl2_jax.model.owl2 import Owl2
from owl2_jax.model.vision import VisionEncoder
from owl2_jax.parallel.axis_rules import activate
from owl2_jax.parallel.mesh import make_mesh
from owl2_jax.testing import tiny

INTERPRETED = lambda *arguments: attention_kernels.splash(*arguments, interpret=True)
FLASH = lambda *arguments: attention_kernels.flash(*arguments, interpret=True)


def case(batch=2, length=256, heads=4, kv_heads=2, width=32, seed=0):
    """Queries, keys, values and three packed segments with padding after them."""
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = [(batch, length, count, width) for count in (heads, kv_heads, kv_heads)]
    q, k, v = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    segments = np.zeros((batch, length), np.int32)
    for row in range(batch):
        borders = [0, 70 + row, 130, length - 20 * row]
        for number in range(3):
            segments[row, borders[number] : borders[number + 1]] = number + 1
    return q, k, v, jnp.asarray(segments)


def outputs_and_gradients(kernel, q, k, v, segments):
    weights = jnp.where(segments > 0, 1.0, 0.0)[:, :, None, None] * jnp.cos(jnp.arange(q.shape[-1]))

    def loss(q, k, v):
        context = kernel(q, k, v, segments)
        return (context * weights).sum(), context * (segments > 0)[:, :, None, None]

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)


def assert_equal_to_reference(kernel, q, k, v, segments, tolerance=2e-5):
    got = outputs_and_gradients(kernel, q, k, v, segments)
    want = outputs_and_gradients(attention_kernels.xla, q, k, v, segments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance), got, want)


def test_the_gradient_of_the_written_out_product_is_that_of_its_probabilities():
    def mixed(q, k, v, segments):
        mask = attention.causal_segment_mask(attention.query_segments(segments), segments)
        probabilities = attention.dot_product(q, k, v, mask)[1]
        values = jnp.repeat(v, q.shape[2] // v.shape[2], axis=2)
        return jnp.einsum("bnts,bsnh->btnh", probabilities, values)

    assert_equal_to_reference(mixed, *case(length=160))


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2)])
def test_splash_equals_the_written_out_product(heads, kv_heads):
    assert_equal_to_reference(INTERPRETED, *case(heads=heads, kv_heads=kv_heads))


def test_splash_in_smaller_tiles_gives_the_same():
    smaller = lambda *arguments: attention_kernels.splash(*arguments, interpret=True, block=128)
    assert_equal_to_reference(smaller, *case(heads=2, kv_heads=2))


def test_splash_on_a_mesh_equals_the_written_out_product():
    mesh = make_mesh({"fsdp": 2, "tensor": 2}, jax.devices()[:4])
    arguments = jax.device_put(case(), jax.NamedSharding(mesh, PartitionSpec()))
    assert_equal_to_reference(activate(mesh)(INTERPRETED), *arguments)


@pytest.mark.parametrize(
    ("length", "heads", "kv_heads", "width"),
    [(256, 8, 8, 128), (640, 4, 2, 128), (1024, 1, 1, 128), (384, 2, 1, 256), (200, 3, 3, 128),
     (1100, 2, 1, 128)],
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
    ("length", "heads", "width"), [(100, 2, 64), (256, 8, 32), (257, 4, 64), (577, 2, 64), (1025, 1, 128)]
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
    ("name", "length", "flash"),
    [("flash", 1025, True), ("flash", 257, True), ("flash", 4097, False), ("splash", 1025, False),
     ("xla", 1025, False), ("cudnn", 1025, False), ("auto", 1025, False)],
)  # fmt: skip
def test_images_go_through_flash_where_text_does(name, length, flash):
    """On a CPU "auto" is the written-out product."""
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
    narrow = config.replace(vision=dataclasses.replace(config.vision, width=64, num_heads=1))
    assert not attention_kernels.sees_by_flash(narrow, 2, length)


def test_vision_encoder_with_flash_equals_the_written_out_product(monkeypatch):
    """Queries, keys and values are then products by themselves."""
    interpreted = functools.partial(attention_kernels.flash_everywhere, interpret=True)
    monkeypatch.setattr(attention_kernels, "flash_everywhere", interpreted)
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
    want, expected = run("xla", (params, images), lambda step: step)
    np.testing.assert_allclose(features, expected, atol=1e-4, rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * max(np.abs(b).max(), 1), rtol=1e-3),
        got,
        want,
    )


def test_masked_attention_equals_the_written_out_product():
    """The call that goes to cuDNN on a GPU, through JAX's own implementation of it."""
    assert_equal_to_reference(lambda *a: attention_kernels.masked_attention(*a, "xla"), *case(length=40))


@pytest.mark.parametrize("beyond", [True, False])
@pytest.mark.parametrize("name", ["splash", "flash"])
def test_kernels_for_tpu_and_the_written_out_product_agree_on_owl2_1(name, beyond, monkeypatch):
    """In evaluation at four times its trained length, where queries are scaled and turned otherwise, too."""
    interpreted = functools.partial(attention_kernels.splash, interpret=True)
    monkeypatch.setitem(attention_kernels.KERNELS, "splash", interpreted)
    interpreted = functools.partial(attention_kernels.flash_turning, interpret=True)
    monkeypatch.setattr(attention_kernels, "flash_turning", interpreted)
    config = tiny.tiny_config(**tiny.OWL2_1)
    if name == "flash":
        config = config.replace(**{"decoder.width": 256, "decoder.num_heads": 2, "decoder.num_kv_heads": 2})
    params = tiny.tiny_params(config)
    inputs = {name: x for name, x in tiny.tiny_inputs(config, rows=2, length=128).items() if name != "labels"}
    if beyond:
        inputs["prompt_lengths"] = inputs["segment_ids"].sum(axis=1, dtype=np.int32)
    weights = inputs["segment_ids"][:, :, None] * np.cos(np.arange(config.decoder.width))

    def run(name):
        def loss(params):
            hidden = Owl2(config.replace(attention=name)).apply({"params": params}, **inputs, method="hidden")
            return (hidden * weights).sum(), hidden * inputs["segment_ids"][:, :, None]

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    (got, hidden), (want, expected) = run(name), run("xla")
    np.testing.assert_allclose(hidden, expected, atol=1e-4, rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * max(np.abs(b).max(), 1), rtol=1e-3),
        got,
        want,
    )


def test_shapes_a_kernel_cannot_take_are_refused():
    with pytest.raises(Owl2Error, match=r"found 200 = 1 \* 128 \+ 72"):
        attention_kernels.splash(*case(length=200))
    with pytest.raises(Owl2Error, match=r"rows of at most 2048 tokens of float32, .* found 32 and 200"):
        attention_kernels.flash(*case(length=200))
    with pytest.raises(Owl2Error, match=r"found 128 and 2176; set model.attention=splash"):
        attention_kernels.flash(*case(length=2176, width=128, heads=2))
    with pytest.raises(Owl2Error, match="found float32 and 32"):
        attention_kernels.cudnn(*case(length=128))


@pytest.mark.parametrize(
    ("platform", "length", "dtype", "width", "name"),
    [
        ("tpu", 2048, "bfloat16", 128, "flash"),
        ("tpu", 2000, "bfloat16", 128, "flash"),
        ("tpu", 4096, "bfloat16", 128, "flash"),
        ("tpu", 4096, "float32", 128, "splash"),
        ("tpu", 2048, "bfloat16", 256, "flash"),
        ("tpu", 1024, "float32", 256, "flash"),
        ("tpu", 4096, "bfloat16", 256, "splash"),
        ("tpu", 8192, "bfloat16", 128, "splash"),
        ("tpu", 2048, "bfloat16", 64, "splash"),
        ("tpu", 2000, "bfloat16", 64, "xla"),
        ("old tpu", 2048, "bfloat16", 128, "splash"),
        ("old tpu", 2000, "bfloat16", 128, "xla"),
        ("gpu", 2048, "bfloat16", 128, "cudnn"),
        ("gpu", 2048, "float32", 128, "xla"),
        ("gpu", 2048, "bfloat16", 256, "xla"),
        ("cpu", 2048, "bfloat16", 128, "xla"),
    ],
)
def test_auto_takes_the_best_kernel_that_fits(platform, length, dtype, width, name):
    assert attention_kernels.best(platform, length, dtype, width) == name


def test_a_tpu_with_little_fast_memory_is_told_apart(monkeypatch):
    assert attention_kernels.default_platform() == "cpu"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    for kind, platform in (("TPU v4", "old tpu"), ("TPU v5 lite", "tpu"), ("TPU v6 lite", "tpu")):
        device = types.SimpleNamespace(device_kind=kind)
        monkeypatch.setattr(jax, "devices", lambda device=device: [device])
        assert attention_kernels.default_platform() == platform


def test_unknown_kernel_names_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'splash'"):
        attention_kernels.kernel("splahs")


def test_model_runs_the_named_kernel(monkeypatch, tiny_params):
    calls = []

    def counted(q, k, v, segment_ids, block):
        calls.append((*q.shape, block))
        return attention_kernels.xla(q, k, v, segment_ids)

    monkeypatch.setitem(attention_kernels.KERNELS, "splash", counted)
    config = tiny.tiny_config(attention="splash", splash_block=256)
    inputs = {name: x for name, x in tiny.tiny_inputs(config).items() if name != "labels"}
    jax.eval_shape(lambda: Owl2(config).apply({"params": tiny_params}, **inputs))
    assert set(calls) == {(4, 24, 4, 8, 256)}
