"""One layer of the decoder: what its backward pass keeps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from flax.core import meta

from owl2_jax.model import remat, rotary
from owl2_jax.model.decoder_layer import DecoderBlock, LayerInputs
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
