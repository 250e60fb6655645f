"""int8 weights: small error, a quarter of the size, the same on stacked and unrolled layers."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import flatten, unflatten
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.quantize import quantize_model
from owl2_jax.inference.request import Request
from owl2_jax.inference.unrolled import UnrolledOwl2, unstack_layers
from owl2_jax.model.layers import KERNEL_SCALE
from owl2_jax.model.owl2 import Owl2
from owl2_jax.testing import tiny


@pytest.fixture(scope="module", params=["owl2", "owl2_1"])
def model(request: pytest.FixtureRequest, tiny_config, tiny_params, toy_tokenizer) -> LoadedModel:
    if request.param == "owl2":
        return LoadedModel(tiny_config, tiny_params, toy_tokenizer)
    config = tiny.tiny_config(**{**tiny.OWL2_1, "decoder.trained_length": 16})
    return LoadedModel(config, with_biases(tiny.tiny_params(config)), toy_tokenizer)


def with_biases(params):
    """The same parameters with biases that are not zero."""
    chance = np.random.default_rng(0)
    return unflatten(
        {
            name: chance.standard_normal(leaf.shape).astype(np.float32) * 0.3
            if name.startswith("decoder/") and name.endswith("/bias")
            else leaf
            for name, leaf in flatten(params).items()
        }
    )


@pytest.fixture(scope="module")
def small(model) -> LoadedModel:
    return quantize_model(model)


def test_scales_give_the_kernels_back_to_half_a_step(model, small):
    found = flatten(small.params)
    for name, kernel in flatten(model.params).items():
        if not (name.startswith("decoder/") and name.endswith("/kernel")):
            assert found[name] is kernel
            continue
        scale = np.asarray(found[name.removesuffix("kernel") + KERNEL_SCALE])
        first = int("/layers/" in name)
        contracted = tuple(range(first, first + kernel.ndim - scale.ndim))
        steps = np.expand_dims(scale, contracted)
        assert found[name].dtype == np.int8
        assert np.all(np.abs(np.asarray(found[name]) * steps - kernel) <= 0.501 * steps)


def test_logits_stay_close_and_do_not_depend_on_the_layout(model, small):
    inputs = tiny.tiny_inputs(model.config)
    inputs.pop("labels")
    inputs["prompt_lengths"] = inputs["segment_ids"].sum(axis=1, dtype=np.int32)  # in evaluation

    def logits(owl: Owl2, params) -> np.ndarray:
        return np.asarray(jax.jit(owl.apply)({"params": params}, **inputs))

    exact = logits(Owl2(model.config), model.params)
    stacked = logits(Owl2(model.config), small.params)
    unrolled = logits(UnrolledOwl2(model.config), unstack_layers(small.params))
    np.testing.assert_allclose(stacked, unrolled, atol=1e-4)
    error = np.sqrt(np.mean((stacked - exact) ** 2)) / exact.std()
    assert 0 < error < 0.05


def test_engine_runs_on_int8(small):
    engine = Engine(small, EngineConfig(sequences=2))
    request = Request("<|image|>What?", [tiny.image(0)], max_new_tokens=6)
    one, other = engine.generate([request, request])
    assert one.token_ids == other.token_ids
    assert len(one.token_ids) == 6


def test_quantizing_twice_is_refused(small):
    with pytest.raises(Owl2Error, match="already"):
        quantize_model(small)
