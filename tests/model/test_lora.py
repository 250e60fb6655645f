from __future__ import annotations

import jax
import numpy as np
import pytest

from owl2_jax.core import tree
from owl2_jax.core.errors import Owl2Error
from owl2_jax.model import flops
from owl2_jax.model.config import LoraConfig
from owl2_jax.model.lora import is_adapter, split_adapters
from owl2_jax.model.lora_merge import merge
from owl2_jax.model.owl2 import Owl2, abstract_params, init_params
from tests.model.adapters import INPUTS, LORA, PLAIN, logits_of, params_of


def test_a_new_adapter_changes_nothing():
    config = PLAIN.replace(lora=LORA)
    params = init_params(config, jax.random.key(0))
    base = split_adapters(params)[1]
    np.testing.assert_array_equal(logits_of(config)(params), logits_of(PLAIN)(base))


def test_adapters_stand_beside_the_chosen_maps_alone():
    config = PLAIN.replace(lora=LoraConfig(rank=2, targets=("q", "v_image", "down")))
    names = [name for name in tree.flatten(abstract_params(config)) if is_adapter(name)]
    assert names == [
        f"decoder/layers/{place}/lora_{part}"
        for place in ("attention/q", "attention/v_image", "mlp/down")
        for part in "ab"
    ]


def test_dropout_drops_only_when_a_key_is_given():
    config = PLAIN.replace(lora=LORA)
    params = params_of(config)

    def run(key):
        rngs = None if key is None else {"dropout": jax.random.key(key)}
        return np.asarray(Owl2(config).apply({"params": params}, **INPUTS, rngs=rngs))

    without = run(None)
    np.testing.assert_allclose(without, logits_of(config)(params), atol=1e-4)
    first, second = run(0), run(1)
    np.testing.assert_array_equal(first, run(0))
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(first - without).max() > 1e-3


def test_int8_base_takes_a_byte_per_weight():
    shapes = tree.flatten(abstract_params(PLAIN.replace(lora=LoraConfig(rank=2, base="int8"))))
    integers = {name for name, leaf in shapes.items() if leaf.dtype == np.int8}
    assert {name.split("/")[-2] for name in integers} == set(LoraConfig().targets)
    assert shapes["decoder/layers/attention/out/kernel_scale"].shape == (2, 32)
    assert shapes["decoder/layers/attention/k_text/kernel_scale"].shape == (2, 2, 8)


def test_adapters_count_as_work():
    config = PLAIN.replace(lora=LoraConfig(rank=4, targets=("q",)))
    more, less = (
        flops.total(flops.forward_flops(c, flops.batch_work(c, 2, 16, 0, 0))).forward for c in (config, PLAIN)
    )
    assert more - less == 2 * (2 * 16) * 2 * 4 * (32 + 32)  # two products, 32 tokens, two layers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ("q", "k_txt")}, "unknown LoRA target 'k_txt'; did you mean 'k_text'"),
        ({"targets": ()}, "targets is empty"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ],
)
def test_settings_that_make_no_adapter_are_refused(settings, message):
    with pytest.raises(Owl2Error, match=message):
        LoraConfig(**settings)


def test_targets_that_the_decoder_lacks_are_refused():
    with pytest.raises(Owl2Error, match=r"k_image, v_image do not exist with decoder\.adaptive 'none'"):
        PLAIN.replace(**{"decoder.adaptive": "none", "lora": LORA})
    with pytest.raises(Owl2Error, match="no LoRA adapters to merge"):
        merge({}, PLAIN)


@pytest.mark.parametrize(
    ("adaptive", "targets", "message"),
    [
        ("kv", ("qkv_image",), "qkv_image do not exist with decoder.adaptive 'kv'"),
        ("kv", ("q_image",), "q_image do not exist with decoder.adaptive 'kv'"),
        ("qkv", ("qkv_text", "k_text"), "has qkv_text and k_text, which qkv_text adapts already"),
    ],
)
def test_targets_of_the_fused_projection_are_checked(adaptive, targets, message):
    with pytest.raises(Owl2Error, match=message):
        PLAIN.replace(**{"decoder.adaptive": adaptive, "lora": LoraConfig(rank=2, targets=targets)})
