"""Adapters added to their kernels answer as they did beside them."""

from __future__ import annotations

import numpy as np
import pytest

from owl2_jax.core import tree
from owl2_jax.model.config import LoraConfig
from owl2_jax.model.lora import split_adapters
from owl2_jax.model.lora_merge import merge
from owl2_jax.model.owl2 import abstract_params
from tests.model.adapters import PLAIN, logits_of, params_of


@pytest.mark.parametrize("base", ["stored", "int8"])
def test_merged_logits_equal_those_of_the_adapters(base):
    config = PLAIN.replace(lora=LoraConfig(rank=3, alpha=6.0, base=base))
    params = params_of(config)
    merged, plain = merge(params, config)
    assert plain == PLAIN
    assert tree.flatten(merged).keys() == tree.flatten(abstract_params(PLAIN)).keys()
    found, expected = logits_of(plain)(merged), logits_of(config)(params)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    untouched = logits_of(PLAIN)(split_adapters(params)[1]) if base == "stored" else 0
    assert np.abs(found - untouched).max() > 0.01


def test_one_adapter_of_queries_keys_and_values_merges_like_three():
    """As a checkpoint with one fused projection has it: one A, and a B per part."""
    plain = PLAIN.replace(**{"decoder.adaptive": "qkv", "decoder.qkv_bias": True})
    lora = LoraConfig(rank=3, alpha=6.0, targets=("qkv_text", "qkv_image", "out"))
    params = params_of(plain.replace(lora=lora))
    merged, config = merge(params, plain.replace(lora=lora))
    assert config == plain
    found, expected = logits_of(plain)(merged), logits_of(plain.replace(lora=lora))(params)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    assert np.abs(found - logits_of(plain)(split_adapters(params)[1])).max() > 0.01
