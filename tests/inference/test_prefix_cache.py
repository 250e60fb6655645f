"""Prompts that begin alike run once; answers stay the same."""

from __future__ import annotations

import numpy as np
import pytest

from owl2_jax.inference.chat import Chat
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.inputs import read_request
from owl2_jax.inference.kv_cache import PagePool
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.prefix_cache import PrefixCache, common_length
from owl2_jax.inference.request import Request
from owl2_jax.sampling.params import Sampling
from owl2_jax.testing import tiny


@pytest.fixture(scope="module")
def model(tiny_config, tiny_params, toy_tokenizer) -> LoadedModel:
    return LoadedModel(tiny_config, tiny_params, toy_tokenizer)


def engine(model, **changes) -> Engine:
    return Engine(model, EngineConfig(**{"sequences": 4, "page_size": 4} | changes))


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
    requests = questions(0)
    prompt = read_request(requests[0], model)
    prefix = prompt.image_starts[0] + prompt.span
    # Those that begin together share whole pages; a part of one is copied when it is computed.
    with_reuse, without = engine(model, page_size=prefix), engine(model, prefix_cache=False)
    if together:
        found = answers(with_reuse, requests)
    else:
        found = [ids for request in requests for ids in answers(with_reuse, [request])]
    assert found == answers(without, requests)
    saved = without.scheduler.computed - with_reuse.scheduler.computed
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
    cost_of_one = one.scheduler.computed
    one.forget()
    asked = [question(0, number) for number in range(8)]
    for batch in [asked] if together else [[each] for each in asked]:
        answers(one, batch)
    assert one.scheduler.computed - cost_of_one <= 2 * cost_of_one
    assert one.features.encoded == 2


def test_mixed_images_and_settings_answer_alike(model):
    requests = [request for n in range(3) for request in questions(n, 3)]
    requests += [ask("<|image|>What <|image|> or this?", tiny.image(1), tiny.image(2))]
    requests += [
        ask("<|image|>What?", tiny.image(1), sampling=Sampling(1.0, seed=n, repetition_penalty=1.4))
        for n in range(3)
    ]
    with_reuse, without = engine(model), engine(model, prefix_cache=False)
    assert answers(with_reuse, requests * 2) == answers(without, requests * 2)
    assert with_reuse.scheduler.computed < 0.8 * without.scheduler.computed


def test_later_turns_run_only_what_is_new(model):
    talk = engine(model, sequences=1)
    chat = Chat(talk, max_new_tokens=4)
    "".join(chat.ask("<|image|>What shape is this?", [tiny.image(0)]))
    before = talk.scheduler.computed
    "".join(chat.ask("And?"))
    new = len(chat._turn_ids("And?", 0)) + 2  # the newest token of the answer and `</s>`
    assert talk.scheduler.computed - before <= new


def test_the_same_prompt_again_runs_its_last_position_alone(model):
    one = engine(model, sequences=3)
    for n in range(3):
        answers(one, questions(n, 1))
    before = one.scheduler.computed
    answers(one, questions(0, 1))
    assert one.scheduler.computed - before == 1


def held(cache: PrefixCache, pool: PagePool, numbers: list[int]) -> list[int]:
    """Puts a sequence into the cache as if it had run and ended."""
    signature = np.array(numbers, np.int64)
    pages = pool.take(pool.pages_for(len(numbers)))
    cache.insert(signature, pages, ready=True)
    pool.release(pages, cache.__contains__)
    return pages


def found(cache: PrefixCache, pool: PagePool, numbers: list[int]) -> tuple[list[int], int, int]:
    """What a prompt finds; given back at once."""
    match = cache.match(np.array(numbers, np.int64))
    pool.release([*match.pages, *([match.source] if match.extra else [])], cache.__contains__)
    return match.pages, match.source, match.extra


def test_whole_pages_are_shared_and_a_part_of_one_is_copied():
    pool = PagePool(8, 2)
    cache = PrefixCache(pool)
    pages = held(cache, pool, [1, 2, 3, 4, 5])
    assert found(cache, pool, [1, 2, 3, 4, 5, 6]) == (pages[:2], pages[2], 1)
    assert found(cache, pool, [1, 2, 3, 9]) == (pages[:1], pages[1], 1)
    assert found(cache, pool, [1, 2]) == ([], pages[0], 1)  # something is left to run
    assert found(cache, pool, [1, 2, 3, 4]) == (pages[:1], pages[1], 1)
    assert found(cache, pool, [2, 1, 3, 4]) == ([], -1, 0)
    assert found(cache, pool, [9, 9, 3, 4, 5]) == ([], -1, 0)  # what stands before counts


def test_least_recently_used_pages_go_first_and_beginnings_last():
    pool = PagePool(6, 2)
    cache = PrefixCache(pool)
    old = held(cache, pool, [1, 2, 3, 4])
    new = held(cache, pool, [5, 6, 7, 8])
    found(cache, pool, [1, 2, 3, 4, 0])  # used again: now `new` is older
    taken = pool.take(4)
    assert set(taken[2:]) == set(new)
    assert taken[2] == new[1], "the end of a sequence goes before its beginning"
    assert found(cache, pool, [5, 6, 7, 8, 0])[0] == []
    assert found(cache, pool, [1, 2, 3, 4, 0])[0] == old


def test_a_page_that_is_not_computed_yet_is_shared_and_not_copied():
    pool = PagePool(8, 2)
    cache = PrefixCache(pool)
    signature, pages = np.array([1, 2, 3, 4]), pool.take(2)
    cache.insert(signature, pages, ready=False)
    assert found(cache, pool, [1, 2, 3, 9]) == (pages[:1], -1, 0)
    cache.insert(signature, pages, ready=True)
    assert found(cache, pool, [1, 2, 3, 9]) == (pages[:1], pages[1], 1)


def test_a_cache_that_is_off_finds_nothing():
    pool = PagePool(8, 2)
    cache = PrefixCache(pool, enabled=False)
    held(cache, pool, [1, 2, 3, 4])
    assert found(cache, pool, [1, 2, 3, 4, 5]) == ([], -1, 0)


def test_common_length():
    assert common_length(np.array([1, 2]), np.array([1, 2, 3])) == 2
    assert common_length(np.array([1, 2]), np.array([2])) == 0
