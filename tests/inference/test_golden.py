"""Greedy decoding of the released implementation, token for token and logit for logit."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from owl2_jax.convert.to_flax import load_hf_params
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.flat_batch import Pieces
from owl2_jax.inference.inputs import place_images
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.program_sizes import StepSize
from owl2_jax.inference.request import Request
from owl2_jax.model.owl2 import Owl2
from owl2_jax.model.pages import empty_pages
from tests.stand_in_tokenizer import NumberTokenizer

TOLERANCE = {"atol": 5e-5, "rtol": 1e-4}


@pytest.fixture(scope="module", params=["A", "B"])
def golden(request, golden_directory):
    folder = golden_directory / request.param
    config, params = load_hf_params(folder / "hf")
    model = LoadedModel(config, jax.device_put(params), NumberTokenizer(config.decoder.vocab_size))
    return model, np.load(folder / "golden.npz")


def requests_of(arrays, case: str, new_tokens: int = 16) -> list[Request]:
    """Rows of a case; the images are handed out in the order of the placeholders."""
    if f"{case}/input_ids" not in arrays:
        case = case.removeprefix("gen_")  # generated from the prompt of the forward case
    ids = arrays[f"{case}/input_ids"].astype(np.int32)
    name = f"{case}/images"
    images = iter(arrays[name].transpose(0, 2, 3, 1).copy() if name in arrays else ())
    return [
        Request(row, [next(images) for _ in range(np.sum(row == -200))], max_new_tokens=new_tokens)
        for row in ids
    ]


@pytest.mark.parametrize("case", ["gen_i", "gen_iii", "gen_batch"])
def test_greedy_tokens_are_those_of_the_release(golden, case):
    model, arrays = golden
    results = list(Engine(model, EngineConfig(sequences=3)).generate(requests_of(arrays, case)))
    np.testing.assert_array_equal([result.token_ids for result in results], arrays[f"{case}/tokens"])
    logprobs = jax.nn.log_softmax(arrays[f"{case}/step_logits"], axis=-1)
    expected = np.take_along_axis(np.asarray(logprobs), arrays[f"{case}/tokens"][..., None], axis=-1)[..., 0]
    np.testing.assert_allclose([result.logprobs for result in results], expected, atol=1e-4)


@pytest.mark.parametrize("case", ["gen_i", "gen_iii", "gen_batch"])
def test_step_logits_are_those_of_the_release(golden, case):
    model, arrays = golden
    np.testing.assert_allclose(
        step_logits(model, requests_of(arrays, case), arrays[f"{case}/tokens"]),
        arrays[f"{case}/step_logits"],
        **TOLERANCE,
    )


@pytest.fixture(scope="module")
def golden_2_1(golden_directory):
    """mPLUG-Owl2.1, trained at a length of 32, which "gen_cross" passes while it answers."""
    config, params = load_hf_params(golden_directory / "F" / "hf")
    model = LoadedModel(config, jax.device_put(params), NumberTokenizer(config.decoder.vocab_size))
    return model, np.load(golden_directory / "F" / "golden.npz")


@pytest.mark.parametrize("case", ["gen_i", "gen_iii", "gen_cross"])
def test_greedy_tokens_and_step_logits_of_owl2_1_are_those_of_the_release(golden_2_1, case):
    model, arrays = golden_2_1
    tokens = arrays[f"{case}/tokens"]
    requests = requests_of(arrays, case, tokens.shape[1])
    results = list(Engine(model, EngineConfig(sequences=3)).generate(requests))
    np.testing.assert_array_equal([result.token_ids for result in results], tokens)
    np.testing.assert_allclose(
        step_logits(model, requests, tokens), arrays[f"{case}/step_logits"], **TOLERANCE
    )


def test_answers_beyond_the_trained_length_do_not_depend_on_their_company(golden_2_1):
    model, arrays = golden_2_1
    # 71, 41 and 9 ids: three rotary bases, and the longer two begin alike, which shares no keys.
    longest = np.concatenate([arrays["long_text/input_ids"][0], [5, 6, 7, 8]]).astype(np.int32)
    requests = [Request(longest[:count], [], max_new_tokens=6) for count in (71, 41, 9, 40)]
    config = EngineConfig(sequences=4)
    alone = [next(iter(Engine(model, config).generate([request]))) for request in requests]
    together = list(Engine(model, config).generate(requests))
    # Each in the row of the one before.
    again = list(Engine(model, EngineConfig(sequences=1)).generate(requests))
    for single, one, other in zip(alone, together, again, strict=True):
        assert single.token_ids == one.token_ids == other.token_ids
        np.testing.assert_allclose(one.logprobs, single.logprobs, atol=1e-4)
        np.testing.assert_allclose(other.logprobs, single.logprobs, atol=1e-4)


def step_logits(model: LoadedModel, requests: list[Request], tokens: np.ndarray) -> np.ndarray:
    """Logits after the prompt and after each of the given tokens: float32[B, N, V]."""
    return np.stack([_step_logits(model, *one) for one in zip(requests, tokens, strict=True)])


def _step_logits(model: LoadedModel, request: Request, tokens: np.ndarray) -> np.ndarray:
    """As the server runs it: the prompt in one step over pages, then token by token."""
    config, variables = model.config, {"params": model.params}
    apply = jax.jit(Owl2(config).apply, static_argnames="method")
    prompt, span = place_images(request.prompt, model), config.tokens_per_image
    features = np.zeros((1, span, config.decoder.width), np.float32)
    if len(request.images):
        features = apply(variables, np.stack(request.images), method="encode_images")
    rows = np.full(len(prompt), -1, np.int32)
    for number, start in enumerate(prompt.image_starts):
        rows[start : start + span] = np.arange(number * span, (number + 1) * span)
    total = len(prompt) + len(tokens)
    table = np.arange(-(-total // 16), dtype=np.int32)[None]
    pages, states = empty_pages(config, table.size, 16), []
    lengths = np.array([len(prompt)])
    steps = [(0, prompt.tokens, rows)]
    steps += [(len(prompt) + n, tokens[n : n + 1], np.array([-1])) for n in range(len(tokens) - 1)]
    for start, ids, images in steps:
        piece = Pieces(np.array([start]), np.array([start + len(ids)]), ids, None, lengths)
        batch = piece.batch(StepSize(len(ids), 1), table)
        hidden, pages = apply(
            variables, ids.astype(np.int32), features, images.astype(np.int32), pages, batch, method="step"
        )
        states.append(hidden[-1])
    return apply(variables, np.stack(states), method="logits")


def test_left_padded_prompt_equals_the_unpadded_one(golden):
    """The release gets this wrong; ours must not."""
    model, arrays = golden
    (request,) = requests_of(arrays, "gen_i")
    prompt = place_images(request.prompt, model)
    count, pad = len(prompt), 5
    apply = jax.jit(Owl2(model.config).apply, static_argnames="method")

    def last_state(left: int) -> np.ndarray:
        tokens = np.concatenate([np.zeros(left, np.int32), prompt.tokens])[None]
        positions = np.concatenate([np.zeros(left, np.int32), np.arange(count, dtype=np.int32)])[None]
        segments = (np.arange(left + count) >= left).astype(np.int32)[None]
        starts = np.array([prompt.image_starts], np.int32) + left
        index = np.arange(len(prompt.image_starts), dtype=np.int32)[None]
        hidden = apply(
            {"params": model.params}, tokens, positions, segments, np.stack(request.images), index, starts,
            np.array([count]), method="hidden",
        )  # fmt: skip
        return hidden[0, -1]

    np.testing.assert_allclose(last_state(pad), last_state(0), **TOLERANCE)
