"""Generation on eight fake devices equals generation on one."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from owl2_jax.beam_search.search import beam_search
from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.option_scoring import score_options
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.request import Request
from owl2_jax.inference.weight_layouts import lay_out
from owl2_jax.model import decoder_layer, modality_projections
from owl2_jax.model.owl2 import logical_axes
from owl2_jax.parallel.mesh import make_mesh
from owl2_jax.parallel.shardings import param_shardings
from owl2_jax.testing import tiny


@pytest.fixture(scope="module")
def model(toy_tokenizer) -> LoadedModel:
    config = tiny.tiny_config(**{"decoder.num_kv_heads": 4})
    return LoadedModel(config, tiny.tiny_params(config), toy_tokenizer)


def requests() -> list[Request]:
    return [
        Request(
            "<|image|>" * count + "What" + " shape" * i,
            [tiny.image(i + k) for k in range(count)],
            max_new_tokens=8,
        )
        for i, count in enumerate([0, 1, 3, 0, 2, 1])
    ]


@pytest.mark.parametrize(
    ("axes", "as_on_tpu"),
    [({"tensor": 2, "data": 4}, True), ({"fsdp": 4, "tensor": 2}, False), ({"data": 8}, False)],
)
def test_sharded_generation_equals_unsharded(model, axes, as_on_tpu, monkeypatch):
    mesh = make_mesh(axes)
    if as_on_tpu:  # and as with larger chunks: tokens in pieces, and those of images taken out
        monkeypatch.setattr(decoder_layer, "_TOKENS_IN_PIECES", 16)
        monkeypatch.setattr(modality_projections, "_IMAGES_AT_A_TIME", 16)
    params = jax.device_put(model.params, param_shardings(logical_axes(model.config), mesh))
    placed = dataclasses.replace(model, params=params, mesh=mesh)
    sharded = Engine(lay_out(placed) if as_on_tpu else placed, EngineConfig(sequences=8))
    single = Engine(model, EngineConfig(sequences=8))
    for one, other in zip(sharded.generate(requests()), single.generate(requests()), strict=True):
        assert one.token_ids == other.token_ids
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
    options = [["red", "blue circle", "no"]] * 6
    np.testing.assert_allclose(
        list(score_options(sharded, requests(), options)),
        list(score_options(single, requests(), options)),
        atol=1e-4,
    )


def test_sharded_beams_equal_unsharded(model):
    mesh = make_mesh({"tensor": 2, "data": 4})
    params = jax.device_put(model.params, param_shardings(logical_axes(model.config), mesh))
    sharded = Engine(dataclasses.replace(model, params=params, mesh=mesh), EngineConfig(sequences=8))
    single = Engine(model, EngineConfig(sequences=8))
    found, expected = (list(beam_search(one.runner, requests()[:3], beams=2)) for one in (sharded, single))
    assert [[beam.token_ids for beam in one] for one in found] == [
        [beam.token_ids for beam in one] for one in expected
    ]


def test_sharded_generation_of_owl2_1_equals_unsharded_beyond_its_trained_length(model):
    config = tiny.tiny_config(**tiny.OWL2_1)
    plain = LoadedModel(config, tiny.tiny_params(config), model.tokenizer)
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    params = jax.device_put(plain.params, param_shardings(logical_axes(config), mesh))
    sharded = Engine(dataclasses.replace(plain, params=params, mesh=mesh), EngineConfig(sequences=8))
    long = [Request("What" + " shape" * count, [], max_new_tokens=8) for count in (12, 2)]
    asked = [*requests()[1:3], *long]
    for one, other in zip(
        sharded.generate(asked), Engine(plain, EngineConfig(sequences=8)).generate(asked), strict=True
    ):
        assert one.token_ids == other.token_ids
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


def test_pages_are_cut_over_heads(model):
    mesh = make_mesh({"data": 4, "tensor": 2})
    params = jax.device_put(model.params, param_shardings(logical_axes(model.config), mesh))
    engine = Engine(dataclasses.replace(model, params=params, mesh=mesh), EngineConfig(sequences=8))
    list(engine.generate(requests()[:2]))
    keys = engine.runner.pages.keys
    count, heads, *page = keys.shape
    assert {shard.data.shape for shard in keys.addressable_shards} == {(count, heads // 2, *page)}


def test_sequences_that_do_not_divide_are_refused(model):
    with pytest.raises(Owl2Error, match="sequences 6"):
        Engine(dataclasses.replace(model, mesh=make_mesh({"data": 8})), EngineConfig(sequences=6))
