"""Prompts that begin alike run once; answers stay the same."""

from __future__ import annotations

import numpy as np
import pytest

from owl2_jax.inference.chat import Chat
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.inputs import Prompt, read_request
from owl2_jax.inference.loaded import LoadedModel
from owl2_jax.inference.prefixes import PrefixIndex, common_length
from owl2_jax.inference.request import Request
from owl2_jax.inference.sampling import Sampling
from owl2_jax.testing import tiny


@pytest.fixture(scope="module")
def model(tiny_config, tiny_params, toy_tokenizer) -> LoadedModel:
    return LoadedModel(tiny_config, tiny_params, toy_tokenizer)


def engine(model, **changes) -> Engine:
    return Engine(model, EngineConfig(**{"slots": 4, "shortest_cache": 128, "reuse_from": 6} | changes))


def ask(text: str, *images, **settings) -> Request:
    return Request([{"role": "user", "content": text}], images, **{"max_new_tokens": 6} | settings)


def questions(image: int, count: int = 8) -> list[Request]:
    words = [
        "What?",
        "Is there a circle?",
        "How many?",
        "red",
        "no",
        "three squares",
        "blue triangle",
        "this",
    ]
    return [ask(f"<|image|>{words[i % 8]}", tiny.image(image)) for i in range(count)]


def answers(engine: Engine, requests: list[Request]) -> list[list[int]]:
    return [result.token_ids for result in engine.generate(requests)]


@pytest.mark.parametrize("together", [True, False])
def test_questions_on_one_image_run_it_once_and_answer_alike(model, together):
    with_reuse, without = engine(model), engine(model, reuse_from=0)
    requests = questions(0)
    if together:
        found = answers(with_reuse, requests)
    else:
        found = [ids for request in requests for ids in answers(with_reuse, [request])]
    assert found == answers(without, requests)
    prompt = read_request(requests[0], model)
    prefix = prompt.image_starts[0] + prompt.span
    saved = without.admission.positions - with_reuse.admission.positions
    assert saved >= 7 * prefix


@pytest.mark.parametrize("together", [True, False])
def test_eight_questions_on_one_image_cost_at_most_two_prefills(toy_tokenizer, together):
    """Positions run and images encoded, at the true number of queries and ten tokens a question."""
    config = tiny.tiny_config(**{"abstractor.num_queries": 64})
    one = engine(LoadedModel(config, tiny.tiny_params(config), toy_tokenizer))

    def question(image: int, number: int) -> Request:
        ids = np.array([1, 40, 41, 42, -200, 50 + number, *range(60, 69)], np.int32)
        return Request(ids, [tiny.image(image)], max_new_tokens=4)

    answers(one, [question(1, 0)])
    cost_of_one = one.admission.positions
    one.forget()
    asked = [question(0, number) for number in range(8)]
    for batch in [asked] if together else [[each] for each in asked]:
        answers(one, batch)
    assert one.admission.positions - cost_of_one <= 2 * cost_of_one
    assert one.features.encoded == 2


def test_mixed_images_and_settings_answer_alike(model):
    requests = [request for n in range(3) for request in questions(n, 3)]
    requests += [ask("<|image|>What <|image|> or this?", tiny.image(1), tiny.image(2))]
    requests += [
        ask("<|image|>What?", tiny.image(1), sampling=Sampling(1.0, seed=n, repetition_penalty=1.4))
        for n in range(3)
    ]
    with_reuse, without = engine(model), engine(model, reuse_from=0)
    assert answers(with_reuse, requests * 2) == answers(without, requests * 2)
    assert with_reuse.admission.positions < 0.8 * without.admission.positions


def test_later_turns_run_only_what_is_new(model):
    talk = engine(model, slots=1)
    chat = Chat(talk, max_new_tokens=4)
    "".join(chat.ask("<|image|>What shape is this?", [tiny.image(0)]))
    before = talk.admission.positions
    "".join(chat.ask("And?"))
    new = len(chat._turn_ids("And?", 0)) + 2  # the newest token of the answer and `</s>`
    assert talk.admission.positions - before <= new


def test_slots_are_given_so_that_contents_stay_long(model):
    one = engine(model, slots=3)
    for n in range(3):
        answers(one, questions(n, 1))
    before = one.admission.positions
    answers(one, questions(0, 1))
    assert one.admission.positions - before == 1  # the same prompt again: only its last position


def test_index_finds_the_longest_beginning():
    index = PrefixIndex(2)
    index.remember(0, np.array([1, 2, 3, 4]))
    index.remember(1, np.array([1, 2, 3, 9, 9]))
    index.remember(2, np.array([7, 8, 9]))
    assert index.longest(np.array([1, 2, 3, 9, 5])) == (1, 4)
    assert index.longest(np.array([7, 8])) == (2, 2)
    assert index.longest(np.array([7])) == (-1, 0)
    assert index.longest(np.array([2, 1, 3])) == (-1, 0)
    index.remember(1, np.array([5, 5, 5]))
    assert index.longest(np.array([1, 2, 3, 9, 5])) == (0, 3)
    index.forget(0)
    assert index.longest(np.array([1, 2, 3])) == (-1, 0)
    assert common_length(np.array([1, 2]), np.array([1, 2, 3])) == 2


def test_no_beginning_cuts_a_image():
    prompt = Prompt(np.arange(20, dtype=np.int32), [3, 9], [], span=5)
    assert [prompt.reusable(n) for n in (2, 3, 4, 7, 8, 9, 10, 14, 15, 19, 30)] == [
        *(2, 3, 3, 3, 8, 9, 9, 14, 15, 19, 19)
    ]
