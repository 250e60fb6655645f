"""Merged projections compute what they compute apart."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax.core import meta

from owl2_jax.inference.merged_projections import merge
from owl2_jax.model.modality_projections import MERGED, ModalityProjections
from owl2_jax.testing import tiny


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_queries_keys_and_values_of_merged_projections_are_the_same(kv_heads, bias):
    config = tiny.tiny_config(**{"decoder.num_kv_heads": kv_heads, "decoder.qkv_bias": bias})
    x = np.random.default_rng(0).standard_normal((3, 5, config.decoder.width)).astype(np.float32)
    params = meta.unbox(ModalityProjections(config).init(jax.random.key(0), x, None, None))["params"]
    if bias:
        params = jax.tree.map(lambda leaf: leaf + np.linspace(-1, 1, leaf.size).reshape(leaf.shape), params)
    merged = merge(params)
    assert merged.keys() == {MERGED}
    run = ModalityProjections(config).apply
    apart, together = (run({"params": each}, x, None, None) for each in (params, merged))
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_projections_with_adapters_of_their_own_stay_apart():
    part = {"kernel": np.zeros((4, 2, 2))}
    attention = {"q": {**part, "lora_a": np.zeros((4, 1))}, "k_text": part, "v_text": part, "out": part}
    assert merge(attention) == attention
