"""Beyond the trained length an answer depends on its own prompt alone, whatever way its keys come about."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from owl2_jax.beam_search.search import beam_search
from owl2_jax.evals.option_scoring import score_options
from owl2_jax.inference.chat import Chat
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.program_sizes import page_bytes
from owl2_jax.inference.request import Request
from owl2_jax.model.owl2 import Owl2
from owl2_jax.model.rotary import doublings
from owl2_jax.testing import tiny

TRAINED = 32
CONFIG = tiny.tiny_config(**tiny.OWL2_1, **{"decoder.max_length": 192})
# At the borders of the rule, and beyond two of them; those of one kind begin alike.
LENGTHS = (31, 32, 33, 64, 65, 70, 110)


@pytest.fixture(scope="module")
def model(toy_tokenizer) -> LoadedModel:
    return LoadedModel(CONFIG, tiny.tiny_params(CONFIG), toy_tokenizer)


def prompt(length: int, image: bool = False) -> np.ndarray:
    """Ids of so many positions; the longer go on where the shorter end."""
    numbers = 20 + np.random.default_rng(0).permutation(np.tile(np.arange(240), 2))
    ids = numbers[: length - CONFIG.tokens_per_image * image].tolist()
    return np.array([*ids[:3], *[-200] * image, *ids[3:]], np.int32)


def requests(new_tokens: int = 5) -> list[Request]:
    return [
        Request(prompt(length, image), [tiny.image(0)] * image, max_new_tokens=new_tokens)
        for length in LENGTHS
        for image in (False, True)
    ]


@pytest.fixture(scope="module")
def alone(model) -> list:
    """Each in an engine that has seen nothing: its whole prompt in one go, then token by token."""
    one = Engine(model, EngineConfig(sequences=1, prefix_cache=False))
    assert {doublings(CONFIG.decoder, length) for length in LENGTHS} == {0, 1, 2}
    return [next(one.generate([request])) for request in requests()]


@pytest.mark.parametrize(
    "settings",
    [
        {"prefix_cache": False},
        {"chunk_tokens": 8, "prefix_cache": False},
        {"chunk_tokens": 24, "page_size": 4},
    ],
    ids=["together", "in chunks", "chunks and shared pages"],
)
def test_a_batch_gives_what_single_runs_give(model, alone, settings) -> None:
    engine = Engine(model, EngineConfig(**{"sequences": 4} | settings))
    for _ in range(2):  # the second time pages of the first may be shared
        for found, expected in zip(engine.generate(requests()), alone, strict=True):
            assert found.token_ids == expected.token_ids
            np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-4)
    assert (engine.scheduler.computed < 2 * 2 * sum(LENGTHS)) == settings.get("prefix_cache", True)


def test_an_answer_that_was_put_back_goes_on_with_the_base_of_its_prompt(model) -> None:
    """Answers pass the trained length and its double; then prompt and answer run again as one piece."""
    asked = [Request(prompt(length), max_new_tokens=60, ignore_eos=True) for length in (20, 30, 40, 62)]
    crowded = Engine(model, EngineConfig(sequences=4, cache_bytes=13 * page_bytes(CONFIG, 16)))
    single = Engine(model, EngineConfig(sequences=1))
    for found, expected in zip(
        crowded.generate(asked), [next(single.generate([request])) for request in asked], strict=True
    ):
        assert found.token_ids == expected.token_ids
        np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-4)
    assert crowded.scheduler.preempted > 0


def test_pages_are_shared_where_the_base_is_the_same_and_nowhere_else(model) -> None:
    engine = Engine(model, EngineConfig(sequences=1, page_size=4))

    def computed(length: int) -> int:
        before = engine.scheduler.computed
        next(engine.generate([Request(prompt(length), max_new_tokens=2)]))
        return engine.scheduler.computed - before

    assert [computed(length) for length in (40, 30, 60, 30, 70, 100)] == [40, 30, 20, 1, 70, 30]


def test_a_later_turn_shares_the_answer_before_it_too(model) -> None:
    engine = Engine(model, EngineConfig(sequences=1, page_size=4))
    chat = Chat(engine, max_new_tokens=4)
    asked = "<|image|>What shape is this, is it red or blue, or what else can you see?"
    "".join(chat.ask(asked, [tiny.image(0)]))
    length, before = len(chat._ids) + CONFIG.tokens_per_image - 1, engine.scheduler.computed
    new = len(chat._turn_ids("And?", 0)) + 2  # the newest token of the answer and `</s>`
    k = doublings(CONFIG.decoder, length + new)
    assert k == doublings(CONFIG.decoder, length - 5) > 0, "both turns have one base"
    "".join(chat.ask("And?"))
    assert engine.scheduler.computed - before <= new


def test_beams_and_options_together_equal_each_alone(model) -> None:
    engine = Engine(model, EngineConfig(sequences=4))
    asked = requests(new_tokens=4)
    together = list(beam_search(engine.runner, asked, beams=2))
    options = [["yes", "no, three"]] * len(asked)
    scores = list(score_options(engine, asked, options))
    for request, found, score in zip(asked, together, scores, strict=True):
        (single,) = beam_search(engine.runner, [request], beams=2)
        assert [beam.token_ids for beam in found] == [beam.token_ids for beam in single]
        (alone,) = score_options(engine, [request], options[:1])
        np.testing.assert_allclose(score, alone, atol=1e-4)


def test_one_beam_is_the_greedy_answer(model) -> None:
    engine = Engine(model, EngineConfig(sequences=4))
    asked = [replace(request, min_new_tokens=5) for request in requests(new_tokens=5)]  # none may end early
    for (found,), expected in zip(beam_search(engine.runner, asked, 1), engine.generate(asked), strict=True):
        assert found.token_ids == expected.token_ids


def test_padding_is_no_key_of_the_rule(model) -> None:
    """A short prompt beside a long one, left or right of its padding: the base of its own length."""
    ids, owl = prompt(30), Owl2(CONFIG)
    nothing = np.zeros((0, 28, 28, 3), np.uint8), np.zeros((1, 0), np.int32), np.zeros((1, 0), np.int32)

    def logits(left: int, right: int) -> np.ndarray:
        real = np.pad(np.ones(30, np.int32), (left, right))[None]
        tokens = np.pad(ids, (left, right))[None]
        positions = np.maximum(np.cumsum(real, axis=1) - 1, 0).astype(np.int32)
        found = owl.apply({"params": model.params}, tokens, positions, real, *nothing, real.sum(axis=1))
        return np.asarray(found)[0, left : left + 30]

    bare = logits(0, 0)
    for left, right in ((0, 50), (50, 0)):
        np.testing.assert_allclose(logits(left, right), bare, atol=1e-4)
