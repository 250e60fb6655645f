"""Beam search against all answers there are, and against itself in other company."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from owl2_jax.beam_search import program
from owl2_jax.beam_search.search import beam_answers, beam_search
from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.detokenizer import Answer
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.program_sizes import page_bytes
from owl2_jax.inference.request import Request
from owl2_jax.model.owl2 import Owl2
from owl2_jax.sampling.params import Sampling
from owl2_jax.structured.form import regex
from owl2_jax.testing import tiny
from tests.stand_in_tokenizer import NumberTokenizer


class Letters(NumberTokenizer):
    """Twelve tokens as letters, with an end of answers that is a text."""

    end_texts = ("ab",)
    pieces = ("x", "y", "", "a", "b", "c", "ab", "ca", "bc", "a ", "d", "e")

    def decode(self, ids) -> str:
        return "".join(self.pieces[i] for i in ids)

    def piece(self, token_id: int) -> str:
        return self.pieces[token_id]

    def token_bytes(self, token_id: int) -> bytes:
        return self.pieces[token_id].encode()


@pytest.fixture(scope="module")
def letters() -> Engine:
    config = tiny.tiny_config(**{"decoder.vocab_size": 12})
    model = LoadedModel(config, tiny.tiny_params(config, scale=1.0), Letters(12, eos_id=2))
    return Engine(model, EngineConfig(sequences=8))


@pytest.fixture(scope="module")
def few_tokens() -> Engine:
    config = tiny.tiny_config(**{"decoder.vocab_size": 12})
    model = LoadedModel(config, tiny.tiny_params(config, scale=1.0), NumberTokenizer(12, eos_id=2))
    return Engine(model, EngineConfig(sequences=8))


@pytest.fixture(scope="module")
def engine(tiny_config, tiny_params, toy_tokenizer) -> Engine:
    return Engine(LoadedModel(tiny_config, tiny_params, toy_tokenizer), EngineConfig(sequences=8))


PROMPT = np.array([1, 5, 7, 4], np.int32)


def all_answers(engine: Engine, longest: int) -> dict[tuple[int, ...], float]:
    """Log-probability of every answer of at most `longest` tokens, ended or cut there."""
    bodies = [body for n in range(longest + 1) for body in itertools.product(set(range(12)) - {2}, repeat=n)]

    def ended(body: tuple[int, ...]) -> bool:
        tokenizer = engine.model.tokenizer
        return any(text in tokenizer.decode(body) for text in tokenizer.end_texts)

    bodies = [body for body in bodies if not ended(body[:-1])]
    answers = [body if len(body) == longest or ended(body) else (*body, 2) for body in bodies]
    rows = np.zeros((len(answers), len(PROMPT) + longest), np.int32)
    rows[:, : len(PROMPT)] = PROMPT
    for row, answer in zip(rows, answers, strict=True):
        row[len(PROMPT) : len(PROMPT) + len(answer)] = answer
    positions = np.tile(np.arange(rows.shape[1], dtype=np.int32), (len(rows), 1))
    none, size = np.zeros((len(rows), 0), np.int32), engine.model.config.vision.image_size
    logits = jax.jit(Owl2(engine.model.config).apply)(
        {"params": engine.model.params}, rows, positions, np.ones_like(rows),
        np.zeros((0, size, size, 3), np.uint8), none, none,
    )  # fmt: skip
    logprobs = np.asarray(jax.nn.log_softmax(logits))
    start = len(PROMPT) - 1
    return {
        answer: float(sum(logprobs[row, start + i, token] for i, token in enumerate(answer)))
        for row, answer in enumerate(answers)
    }


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_wide_search_finds_the_best_of_all_answers(few_tokens, length_penalty):
    request = Request(PROMPT, max_new_tokens=2)
    (found,) = beam_search(few_tokens.runner, [request], beams=24, length_penalty=length_penalty)
    answers = all_answers(few_tokens, 2)
    best = sorted(answers, key=lambda answer: -answers[answer] / len(answer) ** length_penalty)[:24]
    assert [tuple(result.token_ids) for result in found] == best
    for result in found:
        assert sum(result.logprobs) == pytest.approx(answers[tuple(result.token_ids)], abs=1e-4)
        assert result.finish_reason == ("stop" if result.token_ids[-1] == 2 else "length")


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_a_text_that_ends_answers_finishes_beams_as_the_token_does(letters, length_penalty):
    request = Request(PROMPT, max_new_tokens=2)
    (found,) = beam_search(letters.runner, [request], beams=32, length_penalty=length_penalty)
    answers = all_answers(letters, 2)
    best = sorted(answers, key=lambda answer: -answers[answer] / len(answer) ** length_penalty)[:32]
    assert [tuple(result.token_ids) for result in found] == best
    by_text = [result for result in found if "ab" in letters.model.tokenizer.decode(result.token_ids)]
    assert {tuple(result.token_ids) for result in by_text} & {(6,), (3, 4), (3, 8), (7, 4)}
    for result in by_text:
        assert result.finish_reason == "stop"
        assert "ab" not in result.text


def test_a_text_among_the_tokens_that_must_come_ends_no_beam(letters):
    request = Request(PROMPT, max_new_tokens=3, min_new_tokens=2)
    (found,) = beam_search(letters.runner, [request], beams=32)
    ids = [tuple(result.token_ids) for result in found]
    assert all(len(answer) >= 2 for answer in ids)
    assert any(answer[0] == 6 for answer in ids)
    for result in found:
        grown = Answer(request, letters.model.tokenizer, len(PROMPT))
        for number, token in enumerate(result.token_ids):
            assert grown.ended is None, "a beam goes on where the answer to a greedy choice would end"
            grown.extend(SimpleNamespace(tokens=np.array([token]), logprobs=np.zeros(1)))
            assert len(grown.result.token_ids) == number + 1
        grown.end("length")
        assert (grown.result.text, grown.result.finish_reason) == (result.text, result.finish_reason)


def test_floor_forbids_short_answers(few_tokens):
    (found,) = beam_search(few_tokens.runner, [Request(PROMPT, max_new_tokens=4, min_new_tokens=3)], beams=6)
    assert all(2 not in result.token_ids[:3] for result in found)


def test_requests_together_equal_each_alone(engine):
    requests = [
        Request(
            [{"role": "user", "content": "<|image|>" * count + "What" + " shape" * n}],
            [tiny.image(n)] * count,
            max_new_tokens=3 + n,
        )
        for n, count in enumerate([0, 1, 3, 0, 1])
    ]
    together = list(beam_search(engine.runner, requests, beams=3, length_penalty=0.6))
    for request, results in zip(requests, together, strict=True):
        (alone,) = beam_search(engine.runner, [request], beams=3, length_penalty=0.6)
        assert [result.token_ids for result in results] == [result.token_ids for result in alone]
        assert len(results) == 3


def test_searches_that_take_several_calls_find_what_one_call_finds(few_tokens, monkeypatch):
    requests = [Request(PROMPT, max_new_tokens=8, min_new_tokens=count) for count in (8, 5)]
    found = []
    for steps in (3, 64):
        program.EXTEND.clear_cache()  # which holds the number of steps
        monkeypatch.setattr(program, "MOST_STEPS", steps)
        found.append(
            [result.token_ids for each in beam_search(few_tokens.runner, requests, 5) for result in each]
        )
    program.EXTEND.clear_cache()
    assert found[0] == found[1]
    assert max(map(len, found[0])) == 8


def test_a_search_for_which_pages_are_not_free_says_so_and_takes_none(few_tokens):
    pool = few_tokens.pool
    held = pool.take(pool.count - 1)
    try:
        with pytest.raises(Owl2Error, match="all pages of the cache are in use"):
            next(beam_search(few_tokens.runner, [Request(PROMPT, max_new_tokens=3)], 4))
        assert pool.num_free == 1
    finally:
        pool.release(held)


def test_a_search_that_is_left_between_two_answers_gives_all_pages_back(few_tokens):
    requests = [
        Request(PROMPT, max_new_tokens=1),
        *[Request(PROMPT, max_new_tokens=40, min_new_tokens=40)] * 2,
    ]
    found = beam_search(few_tokens.runner, requests, 4)
    next(found)
    assert few_tokens.pool.num_free < few_tokens.pool.count
    found.close()
    assert few_tokens.pool.num_free == few_tokens.pool.count


def test_a_search_is_at_least_as_likely_as_greedy_choice(engine):
    request = Request("What shape is this?", max_new_tokens=6)
    greedy = next(engine.generate([request]))
    (found,) = beam_search(engine.runner, [request], beams=8, length_penalty=0.0)
    assert sum(found[0].logprobs) >= sum(greedy.logprobs) - 1e-4


@pytest.mark.parametrize(
    ("request_", "settings", "message"),
    [
        (Request("a"), {"beams": 0}, "beams"),
        (Request("a"), {"beams": 2, "length_penalty": -1.0}, "length_penalty"),
        (Request("a", sampling=Sampling(1.0)), {"beams": 2}, "sampling"),
        (Request("a", stop=["x"]), {"beams": 2}, "stop"),
        (dataclasses.replace(Request("a"), prompt="word " * 200), {"beams": 2}, "shorten"),
    ],
)
def test_bad_searches_are_refused(engine, request_, settings, message):
    with pytest.raises(Owl2Error, match=message):
        list(beam_search(engine.runner, [request_], **settings))


def test_what_is_wrong_with_one_request_stands_in_its_place_and_ends_no_other(tiny_config, engine):
    """Each fault stands behind a search that is in flight, and before one that begins later."""
    small = EngineConfig(sequences=8, cache_bytes=16 * page_bytes(tiny_config, 16))
    short = Request("What?", max_new_tokens=3)
    requests = [
        short,
        dataclasses.replace(short, max_new_tokens=100),
        dataclasses.replace(short, sampling=Sampling(0.5)),
        short,
        dataclasses.replace(short, stop=["x"]),
        dataclasses.replace(short, structured=regex("[a-d]", "f")),
        dataclasses.replace(short, prompt="word " * 200),
        short,
    ]
    found = list(beam_answers(Engine(engine.model, small), requests, 4, 1.0))
    (best,) = beam_search(engine.runner, [short], 4)
    ((alone,),) = beam_search(engine.runner, [short], 4, told=1)
    assert alone.token_ids == best[0].token_ids
    for number in (0, 3, 7):
        assert found[number].token_ids == best[0].token_ids
    for number, words in {1: "which has 16", 2: "sampling", 4: "stop", 5: "forms", 6: "shorten"}.items():
        assert isinstance(found[number], Owl2Error)
        assert words in str(found[number])
