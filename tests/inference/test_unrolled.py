"""Layers apart compute what stacked layers compute."""

from __future__ import annotations

import jax
import numpy as np

from owl2_jax.inference.unrolled import UnrolledOwl2, new_cache, unstack_layers
from owl2_jax.model.owl2 import Owl2
from owl2_jax.testing import tiny


def test_prefill_and_extend_equal_the_stacked_ones(tiny_config, tiny_params):
    inputs = tiny.tiny_inputs(tiny_config, rows=3, length=20)
    arguments = [inputs[name] for name in ("tokens", "positions", "segment_ids")]
    places = inputs["image_index"], inputs["image_starts"]

    def run(owl: Owl2, params) -> tuple:
        def apply(*args, **kwargs):
            return owl.apply({"params": params}, *args, **kwargs)

        features = apply(inputs["images"], method="encode_images")
        hidden, cache = apply(*arguments, features, *places, 24, method="prefill")
        more, cache = apply(np.array([[5, 6], [7, 8], [9, 10]]), cache, method="extend")
        keys = jax.numpy.concatenate(cache.keys) if isinstance(cache.keys, tuple) else cache.keys
        return hidden, more, keys, cache.lengths, apply(more, method="logits")

    stacked = jax.jit(run, static_argnums=0)(Owl2(tiny_config), tiny_params)
    unrolled = jax.jit(run, static_argnums=0)(UnrolledOwl2(tiny_config), unstack_layers(tiny_params))
    for one, other in zip(stacked, unrolled, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_cache_is_of_the_kind_the_model_returns(tiny_config):
    layers = tiny_config.decoder.num_layers
    assert len(new_cache(UnrolledOwl2(tiny_config), 2, 8).keys) == layers
    assert new_cache(Owl2(tiny_config), 2, 8).keys.shape[0] == layers
