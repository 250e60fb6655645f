"""One layer of the decoder: what its backward pass keeps."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from owl2_jax.model import decoder_layer, remat, rotary
from owl2_jax.model.decoder_layer import DecoderBlock, DecoderMlp, LayerInputs, for_tiles
from owl2_jax.model.pages import COMBINED, HEADS, empty_pages
from owl2_jax.parallel import axis_rules
from owl2_jax.parallel.mesh import make_mesh
from owl2_jax.testing import tiny

LENGTH = 128  # of one tile of the kernel for TPU


def text_inputs(decoder):
    """What a layer needs of a row of text."""
    positions = jnp.arange(LENGTH, dtype=jnp.int32)[None]
    sin, cos = rotary.rope_angles(positions, decoder.head_dim, decoder.rope_theta)
    return LayerInputs(sin, cos, None, None, None, jnp.ones((1, LENGTH), jnp.int32))


@pytest.mark.parametrize(
    ("attention", "policy", "kept"),
    [
        ("splash", "products", 2),
        ("splash", "context", 1),
        ("xla", "attention", 2),
        ("xla", "context", 1),
        ("flash", "products", 2),
        ("flash", "attention", 2),
        ("flash", "context", 1),
    ],
)
def test_queries_and_context_are_kept_once(attention, policy, kept):
    config = tiny.tiny_config(**{"attention": attention, "remat": policy, "decoder.max_length": LENGTH})
    if attention == "flash":
        config = config.replace(**{"decoder.width": 512})
    decoder = config.decoder
    # Queries and context, whichever way they lie; keys and values have fewer heads.
    shapes = {
        (1, LENGTH, decoder.num_heads, decoder.head_dim),
        (1, decoder.num_heads, LENGTH, decoder.head_dim),
        (1, LENGTH, decoder.num_heads * decoder.head_dim),
    }
    sums = (1, decoder.num_heads, 1, LENGTH)  # of the softmax, without which a kernel would run again
    inputs = text_inputs(decoder)
    x = jax.ShapeDtypeStruct((1, LENGTH, decoder.width), jnp.float32)

    def count(policy):
        block = remat.remat_block(DecoderBlock, policy)(config)

        def call(params, x):
            return block.apply({"params": params}, (x, None, None), jnp.int32(0), inputs)[0][0]

        made = jax.eval_shape(
            lambda x: block.init(jax.random.key(0), (x, None, None), jnp.int32(0), inputs), x
        )
        params = meta.unbox(made["params"])
        backward = jax.eval_shape(lambda params, x: jax.vjp(call, params, x)[1], params, x)
        kept = [leaf.shape for leaf in jax.tree.leaves(backward)]
        return sum(shape in shapes for shape in kept), kept.count(sums)

    # Beside the stream, which is kept in any case and has a shape of these.
    (found, of_softmax), (without, none) = count(policy), count("full")
    assert found - without == kept
    assert of_softmax - none == (attention == "flash")


@pytest.mark.parametrize(("attention", "written"), [("flash", 2), ("splash", 2), ("xla", 0)])
def test_for_a_tpu_both_norms_are_written_before_the_products_that_read_them(attention, written):
    config = tiny.tiny_config(**{"attention": attention, "decoder.max_length": LENGTH, "decoder.width": 512})
    x = jax.ShapeDtypeStruct((1, LENGTH, config.decoder.width), jnp.float32)
    made = lambda x: DecoderBlock(config).init(
        jax.random.key(0), (x, None, None), jnp.int32(0), text_inputs(config.decoder)
    )
    assert str(jax.make_jaxpr(made)(x)).count("optimization_barrier") == written


def test_for_a_tpu_gradients_of_the_gated_activation_are_written_once_and_are_the_same():
    config = tiny.tiny_config()
    x = jax.random.normal(jax.random.key(0), (1, LENGTH, config.decoder.width))
    mlp = DecoderMlp(config)
    params = meta.unbox(mlp.init(jax.random.key(1), x, False))
    found, barriers = {}, {}
    for in_tiles in (True, False):
        run = functools.partial(mlp.apply, in_tiles=in_tiles)
        loss = jax.grad(lambda params, x, run=run: jnp.sum(jnp.cos(run(params, x))), argnums=(0, 1))
        found[in_tiles] = jax.jit(loss)(params, x)
        barriers[in_tiles] = str(jax.make_jaxpr(loss)(params, x)).count("optimization_barrier")
        assert str(jax.make_jaxpr(run)(params, x)).count("optimization_barrier") == 0
    assert barriers == {True: 1, False: 0}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), *found.values())


@pytest.mark.parametrize(
    ("attention", "layout", "expected"),
    [
        ("flash", None, True), ("splash", None, True), ("xla", None, False), ("auto", None, False),
        ("auto", COMBINED, True), ("xla", COMBINED, True), ("splash", HEADS, False),
    ],
)  # fmt: skip
def test_pages_say_for_which_device_a_step_over_them_is(attention, layout, expected):
    config = tiny.tiny_config(attention=attention)
    pages = None if layout is None else empty_pages(config, 2, 4, layout)
    x = jnp.zeros((1, LENGTH, config.decoder.width))
    assert for_tiles(config, x, pages) == expected


@pytest.mark.parametrize(
    ("tokens", "sizes", "pieces"),
    [
        (512, {"tensor": 4, "data": 2}, True),
        (516, {"tensor": 8}, False),
        (504, {"tensor": 8}, False),
        (1024, {"fsdp": 8}, True),
    ],
)
def test_tokens_of_a_large_flat_batch_lie_in_pieces_between_products(tokens, sizes, pieces):
    inputs = LayerInputs(None, None, None, None, None, None, paged=object())
    x, found = jax.ShapeDtypeStruct((tokens, 1, 8), jnp.float32), []
    mesh = make_mesh(sizes)
    axis_rules.activate(mesh)(lambda: found.append(decoder_layer._between_products(x, inputs)))()
    assert found == [decoder_layer.IN_PIECES if pieces else decoder_layer.STREAM]
    assert axis_rules.compute_spec(decoder_layer.IN_PIECES)[0] == ("dcn", "data", "fsdp", "tensor")
    # One device alone, and rows of tokens, stay as they are.
    assert decoder_layer._between_products(x, inputs) == decoder_layer.STREAM
    assert (
        axis_rules.activate(mesh)(lambda: decoder_layer._between_products(x, inputs.replace(paged=None)))()
        == decoder_layer.STREAM
    )
