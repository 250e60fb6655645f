"""One layer of the decoder: what its backward pass keeps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from owl2_jax.model import remat, rotary
from owl2_jax.model.decoder_layer import DecoderBlock, DecoderMlp, LayerInputs
from owl2_jax.testing import tiny

LENGTH = 128  # of one tile of the kernel for TPU


@pytest.mark.parametrize(
    ("attention", "policy", "kept"),
    [("splash", "products", 2), ("splash", "context", 1), ("xla", "attention", 2), ("xla", "context", 1)],
)
def test_queries_and_context_are_kept_once(attention, policy, kept):
    config = tiny.tiny_config(**{"attention": attention, "remat": policy, "decoder.max_length": LENGTH})
    decoder = config.decoder
    # Queries and context, whichever way they lie; keys and values have fewer heads.
    shapes = {
        (1, LENGTH, decoder.num_heads, decoder.head_dim),
        (1, decoder.num_heads, LENGTH, decoder.head_dim),
    }
    positions = jnp.arange(LENGTH, dtype=jnp.int32)[None]
    sin, cos = rotary.rope_angles(positions, decoder.head_dim, decoder.rope_theta)
    inputs = LayerInputs(sin, cos, None, None, None, jnp.ones((1, LENGTH), jnp.int32))
    block = remat.remat_block(DecoderBlock, policy)(config)
    x = jax.ShapeDtypeStruct((1, LENGTH, decoder.width), jnp.float32)

    def call(params, x):
        return block.apply({"params": params}, (x, None, None), jnp.int32(0), inputs)[0][0]

    made = jax.eval_shape(lambda x: block.init(jax.random.key(0), (x, None, None), jnp.int32(0), inputs), x)
    params = meta.unbox(made["params"])
    backward = jax.eval_shape(lambda params, x: jax.vjp(call, params, x)[1], params, x)
    assert sum(leaf.shape in shapes for leaf in jax.tree.leaves(backward)) == kept


def test_for_a_tpu_the_gated_activation_and_its_gradients_are_written_once_and_are_the_same():
    x = jax.random.normal(jax.random.key(0), (1, LENGTH, tiny.tiny_config().decoder.width))
    params = meta.unbox(DecoderMlp(tiny.tiny_config()).init(jax.random.key(1), x))
    found, barriers = {}, {}
    for attention in ("splash", "xla"):
        mlp = DecoderMlp(tiny.tiny_config(attention=attention))
        loss = jax.grad(lambda params, x, mlp=mlp: jnp.sum(jnp.cos(mlp.apply(params, x))), argnums=(0, 1))
        found[attention] = jax.jit(loss)(params, x)
        barriers[attention] = str(jax.make_jaxpr(loss)(params, x)).count("optimization_barrier")
    assert barriers == {"splash": 2, "xla": 0}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), *found.values())
