"""Log-likelihoods of options against a forward pass over each prompt with its option."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.option_scoring import _ids, score_options
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.inputs import place_images
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.request import Request
from owl2_jax.model.owl2 import Owl2
from owl2_jax.testing import tiny


@pytest.fixture(scope="module")
def engine(tiny_config, tiny_params, toy_tokenizer) -> Engine:
    return Engine(LoadedModel(tiny_config, tiny_params, toy_tokenizer), EngineConfig(sequences=2))


def by_whole_forward(engine: Engine, request: Request, option: str, first: int) -> float:
    """Sums the log-probabilities of everything from position `first` on."""
    model = engine.model
    prompt = place_images(_ids(engine.model, request, option), model)
    tokens, count = prompt.tokens[None], len(prompt.image_starts)
    size = model.config.vision.image_size
    images = np.array([tiny.image(i) for i in range(count)], np.uint8).reshape(-1, size, size, 3)
    index = np.arange(count, dtype=np.int32)[None]
    starts = np.array(prompt.image_starts, np.int32).reshape(1, count)
    positions = np.arange(tokens.shape[1], dtype=np.int32)[None]
    logits = jax.jit(Owl2(model.config).apply)(
        {"params": model.params}, tokens, positions, np.ones_like(tokens), images, index, starts
    )
    logprobs = jax.nn.log_softmax(logits[0])
    return float(sum(logprobs[i - 1, tokens[0, i]] for i in range(first, tokens.shape[1])))


@pytest.mark.parametrize("images", [0, 2])
def test_options_score_as_in_a_whole_forward_pass(engine, images):
    tags = "<|image|> and " * images
    request = Request(f"USER: {tags}What is this? ASSISTANT: ", [tiny.image(i) for i in range(images)])
    options = ["yes", "a red circle", "no"]
    (scores,) = score_options(engine, [request], [options])
    bare = place_images(_ids(engine.model, request, ""), engine.model)
    first = len(bare) - 1  # the prompt's last piece is a lone space, which goes into the option
    expected = [by_whole_forward(engine, request, option, first) for option in options]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_options_of_many_requests_equal_each_alone(engine):
    requests, options = [], []
    for i in range(11):
        messages = [{"role": "user", "content": "<|image|>" * (i % 2) + "What" + " shape" * i}]
        requests.append(Request(messages, [tiny.image(i)] * (i % 2)))
        options.append(["red", "a blue circle", "yes", "no"][: 1 + i % 4])
    together = list(score_options(engine, requests, options))
    assert [len(scores) for scores in together] == [len(texts) for texts in options]
    for request, texts, scores in zip(requests, options, together, strict=True):
        (alone,) = score_options(engine, [request], [texts])
        np.testing.assert_allclose(scores, alone, atol=1e-4)


def test_options_that_share_their_beginning_are_compared_where_they_differ(engine):
    request = Request("USER: What? ASSISTANT:")
    (short,) = score_options(engine, [request], [[" yes"]])
    (both,) = score_options(engine, [request], [[" yes", " yes yes"]])
    assert both[1] < 0
    assert np.isfinite([*short, *both]).all()


@pytest.mark.parametrize(
    ("request_", "options", "message"),
    [
        (Request("What?"), [], "options"),
        (Request("What?"), ["a", ""], "options"),
        (Request("<|image|>?"), ["a"], "1 image tag"),
        (Request("What " * 200), ["a"], "shorten"),
        (Request(np.zeros(0, np.int32)), ["red", "a"], "'a' is one token and nothing stands before it"),
    ],
)
def test_bad_options_are_refused(engine, request_, options, message):
    with pytest.raises(Owl2Error, match=message):
        list(score_options(engine, [request_], [options]))
