"""Embeddings with more rows than the tokenizer has pieces: kept everywhere, produced nowhere."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.torch import load_file

import owl2_jax
from owl2_jax.beam_search.search import beam_search
from owl2_jax.checkpoint.param_files import model_json, write_model_directory
from owl2_jax.cli.train import check_tokenizer
from owl2_jax.convert.to_flax import convert_to_jax
from owl2_jax.convert.to_torch import convert_to_torch
from owl2_jax.core.tree import flatten, unflatten
from owl2_jax.data.pipeline import load_tokenizer
from owl2_jax.evals.option_scoring import score_options
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.request import Request
from owl2_jax.model.owl2 import Owl2
from owl2_jax.sampling.params import Sampling
from owl2_jax.testing import tiny
from tests.training import runs

PADDED = [301, 320]


def padded(model: LoadedModel, rows: int) -> LoadedModel:
    """The same model with spare rows, whose logits would win every choice."""
    flat = {name: np.asarray(leaf) for name, leaf in flatten(model.params).items()}
    head, embedding = flat["decoder/head/kernel"], flat["decoder/embedding"]
    spare = rows - head.shape[1]
    # Some direction of each sign is large, so one of each pair beats all pieces.
    strong = 100 * np.sign(head[:, :1]) * np.where(np.arange(spare) % 2, -1, 1)
    flat["decoder/head/kernel"] = np.concatenate([head, strong], axis=1).astype(np.float32)
    flat["decoder/embedding"] = np.concatenate([embedding, np.ones((spare, embedding.shape[1]))]).astype("f4")
    config = model.config.replace(**{"decoder.vocab_size": rows})
    return dataclasses.replace(model, config=config, params=unflatten(flat))


@pytest.fixture(scope="module")
def model(tiny_config, tiny_params, toy_tokenizer) -> LoadedModel:
    return LoadedModel(tiny_config, tiny_params, toy_tokenizer)


def engine(model: LoadedModel) -> Engine:
    return Engine(model, EngineConfig(sequences=4))


def ask(text: str, *images, **settings) -> Request:
    return Request([{"role": "user", "content": text}], images, **{"max_new_tokens": 10} | settings)


def requests(**settings) -> list[Request]:
    return [ask("What?", **settings), ask("<|image|>What is this?", tiny.image(0), **settings)]


@pytest.mark.parametrize("rows", PADDED)
def test_answers_beams_and_scores_are_those_of_the_model_without_spare_rows(model, rows) -> None:
    ours, theirs = engine(padded(model, rows)), engine(model)
    for penalty in (1.0, 1.3):
        sampling = Sampling(repetition_penalty=penalty)
        results = zip(
            ours.generate(requests(sampling=sampling, top_logprobs=3)),
            theirs.generate(requests(sampling=sampling, top_logprobs=3)),
            strict=True,
        )
        for found, expected in results:
            assert found.token_ids == expected.token_ids
            np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-5)
    for found, expected in zip(
        beam_search(ours.runner, requests(), 3), beam_search(theirs.runner, requests(), 3), strict=True
    ):
        assert [beam.token_ids for beam in found] == [beam.token_ids for beam in expected]
    options = [["yes", "no, three"], ["a red circle", "a square"]]
    np.testing.assert_allclose(
        list(score_options(ours, requests(), options)),
        list(score_options(theirs, requests(), options)),
        atol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("rows", PADDED)
def test_drawn_tokens_are_pieces(model, rows) -> None:
    asked = [
        ask("What?", sampling=Sampling(temperature=50.0, seed=seed, top_k=top_k), max_new_tokens=40)
        for seed in range(4)
        for top_k in (0, 5)
    ]
    for result in engine(padded(model, rows)).generate(asked):
        assert max(result.token_ids) < model.tokenizer.vocab_size
        assert isinstance(result.text, str)


def test_conversion_gives_the_spare_rows_back_and_the_model_loads(model, tmp_path) -> None:
    other = padded(model, 320)
    settings = model_json(other.config.to_dict())
    write_model_directory(tmp_path / "model", settings, other.params, other.tokenizer.bytes)
    convert_to_torch(tmp_path / "model", tmp_path / "hf")
    convert_to_jax(tmp_path / "hf", tmp_path / "again")
    convert_to_torch(tmp_path / "again", tmp_path / "twice")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "twice"))
    assert first["lm_head.weight"].shape == (320, 32)
    assert all(bool((first[name] == second[name]).all()) for name in first)
    for name in ("model", "hf"):
        (answer,) = engine(owl2_jax.load(tmp_path / name)).generate([ask("What?")])
        (expected,) = engine(model).generate([ask("What?")])
        assert answer.token_ids == expected.token_ids


def test_spare_rows_count_in_training_as_in_the_original(model) -> None:
    """The loss of a fine-tuning is taken over all rows."""
    other = padded(model, 320)
    hidden = jnp.ones((1, 32))
    assert np.isfinite(Owl2(other.config).apply({"params": other.params}, hidden, method="logits")).all()
    masked = Owl2(other.config, 300).apply({"params": other.params}, hidden, method="logits")
    assert np.isneginf(masked[:, 300:]).all()
    assert np.isfinite(masked[:, :300]).all()


def test_a_padded_model_trains(tmp_path) -> None:
    config = runs.run_config("model.decoder.vocab_size=4160", "train.total_steps=2")
    check_tokenizer(load_tokenizer(config.data).vocab_size, config.model.decoder.vocab_size)
    outcome, _ = runs.run(config, tmp_path / "run")
    assert outcome.finished
