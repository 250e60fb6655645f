"""Attention kernels against the written-out product."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from owl2_jax.core import platforms
from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.model import attention, attention_kernels, presets
from owl2_jax.model.owl2 import Owl2
from owl2_jax.parallel.axis_rules import activate
from owl2_jax.parallel.mesh import make_mesh
from owl2_jax.testing import tiny
from tests.model.attention_cases import assert_equal_to_reference, case

INTERPRETED = lambda *arguments: attention_kernels.splash(*arguments, interpret=True)


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
    with pytest.raises(Owl2Error, match=r"at most 2048 tokens of float32; found 32 .*attention=xla"):
        attention_kernels.flash(*case(length=200))
    with pytest.raises(Owl2Error, match=r"and 2176 tokens .*; set model.attention=splash"):
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


KINDS = [("tpu", "TPU v4", "old tpu"), ("tpu", "TPU v5 lite", "tpu"), ("gpu", "NVIDIA H200", "gpu")]


@pytest.mark.parametrize(("platform", "kind", "name"), KINDS)
def test_a_tpu_with_little_fast_memory_is_told_apart(platform, kind, name, monkeypatch):
    device = types.SimpleNamespace(platform=platform, device_kind=kind)
    assert platforms.current_platform() == "cpu"
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert platforms.current_platform() == name


@pytest.mark.parametrize(("platform", "kind", "name"), KINDS)
def test_auto_is_for_the_devices_of_the_mesh_which_need_not_be_here(platform, kind, name):
    device = jax.sharding.AbstractDevice(device_kind=kind, num_cores=1, platform=platform)
    mesh = jax.sharding.AbstractMesh((2,), ("fsdp",), abstract_device=device)
    config = presets.preset("owl2_7b").replace(attention="auto")
    with jax.sharding.use_abstract_mesh(mesh):
        assert platforms.current_platform() == name
        expected = {"tpu": "flash", "old tpu": "splash", "gpu": "cudnn"}[name]
        assert attention_kernels.resolved(config, 2048) == expected
        # Rows of text that no kernel takes leave the vision encoder its own.
        assert attention_kernels.resolved(config, 5000) in ("xla", "cudnn")
        assert attention_kernels.sees_by_flash(config, 2, 1025) == (name == "tpu")
    assert attention_kernels.resolved(config, 2048) == "xla"
    assert not attention_kernels.sees_by_flash(config, 2, 1025)


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
