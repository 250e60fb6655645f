"""Log-likelihood of options, against logits computed one sequence at a time."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.conversation import encode_text
from owl2_jax.evals.likelihood import OptionScorer
from owl2_jax.inference.loaded import LoadedModel
from owl2_jax.model.owl2 import Owl2


@pytest.fixture(scope="module")
def model(tiny_config, tiny_params, toy_tokenizer):
    return LoadedModel(tiny_config, tiny_params, toy_tokenizer)


@pytest.fixture(scope="module")
def alone(model):
    """Sum of log-probabilities of an option's tokens, from all logits of a batch of one."""
    forward = jax.jit(
        lambda *inputs: jax.nn.log_softmax(Owl2(model.config).apply({"params": model.params}, *inputs))
    )

    def run(prompt, option):
        tokens = encode_text(prompt + option, model.tokenizer)
        start, length = len(encode_text(prompt, model.tokenizer)), 100
        row = np.zeros((1, length), np.int32)
        row[0, : len(tokens)] = tokens
        positions = np.arange(length, dtype=np.int32)[None]
        size, slots = model.config.vision.image_size, np.zeros((1, 0), np.int32)
        images = np.zeros((0, size, size, 3), np.uint8)
        real = (positions < len(tokens)).astype(np.int32)
        logprobs = np.asarray(forward(row, positions, real, images, slots, slots))[0]
        return sum(logprobs[place - 1, tokens[place]] for place in range(start, len(tokens)))

    return run


def test_letters_and_longer_options_in_ragged_batches(model, alone):
    prompts = [f"What shape is this? {'a red circle ' * (number % 4)}Answer:" for number in range(11)]
    options = [(" a", " b", " c") if number % 2 else (" a red circle", " no") for number in range(11)]
    found = OptionScorer(model).scores(prompts, options)
    for prompt, texts, scores in zip(prompts, options, found, strict=True):
        expected = [alone(prompt, text) for text in texts]
        np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_scores_do_not_depend_on_the_company(model):
    prompts = ["no, three of them. Answer:", "Is there a blue triangle in the image? Answer:"]
    options = [(" a", " b")] * 2
    scorer = OptionScorer(model)
    together = scorer.scores(prompts, options)
    for prompt, scores in zip(prompts, together, strict=True):
        np.testing.assert_allclose(scores, scorer.scores([prompt], [(" a", " b")])[0], atol=1e-5)


def test_a_prompt_that_does_not_fit_is_refused(model):
    with pytest.raises(Owl2Error, match="and the model 128 positions"):
        OptionScorer(model).scores(["three of them " * 100], [(" a", " b")])
