"""The long load says what was wrong: a changed answer, a lost page, memory that grew, a failure."""

from __future__ import annotations

import asyncio
import math

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.testing import soak as soaking
from owl2_jax.testing.soak import Found, Soak, gauge, same, soak
from tests.testing.answering import answering

PLAN = Soak(minutes=0.002, clients=3, requests=12, images=2, tokens=4, timeout=20)


def run(url):
    return asyncio.run(soak(url, PLAN, lambda: 2**20))


def test_a_server_that_answers_the_same_each_time_has_no_faults():
    with answering() as url:
        found = run(url)
    assert not found.faults
    assert found.answers.total() > 2 * PLAN.requests
    assert found.dropped
    assert found.memory == [2**20]


def test_answers_that_differ_from_those_alone_are_told_with_both_texts():
    with answering(lambda text, number: "other" if number > PLAN.requests else text) as url:
        found = run(url)
    refused = found.answers["bad"]
    assert found.faults.total() >= found.answers.total() - refused > PLAN.requests
    assert all("other" in text and "and not" in text for text in found.faults)
    assert found.lines()[-1].startswith("wrong: ")


def test_a_request_that_is_refused_each_time_is_no_right_answer():
    with answering(status=500) as url:
        found = run(url)
    assert found.answers.total() > 2 * PLAN.requests
    assert found.faults.total() == found.answers.total() - found.answers["bad"]
    assert all("status 500" in text for text in found.faults)


def test_what_was_found_is_told_when_the_server_breaks_off_at_the_end(monkeypatch):
    asked_alone, times = soaking.ask_all, []

    async def once(*args):
        times.append(args)
        if len(times) > 1:
            raise ConnectionResetError("gone")
        return await asked_alone(*args)

    monkeypatch.setattr(soaking, "ask_all", once)
    with answering(lambda text, number: "other" if number > PLAN.requests else text) as url:
        found = run(url)
    assert found.faults["after the load the server broke off: ConnectionResetError gone"] == 1
    assert found.faults.total() > PLAN.requests, "what differed before is kept"


def test_a_server_that_is_gone_before_the_load_is_an_error_in_words():
    with answering() as url:
        pass
    with pytest.raises(Owl2Error, match="broke off before the load"):
        run(url)


@pytest.mark.parametrize(
    ("readings", "said"),
    [
        ({"owl2_cache_pages_free": 7}, "owl2_cache_pages_free is 7 at the end and not 8"),
        ({"owl2_engine_failures_total": 1}, "owl2_engine_failures_total is 1 at the end and not 0"),
    ],
)
def test_what_a_server_does_not_give_back_is_told(readings, said):
    with answering(**readings) as url:
        assert list(run(url).faults) == [said]


def test_memory_has_grown_when_its_last_half_holds_more_than_its_second_eighth():
    assert Found(memory=[50, 100, *[100] * 12, 110, 104]).growth() == pytest.approx(0.1)
    assert Found(memory=[50, 100, *[200] * 4, *[100] * 10]).growth() < 0
    short = Found(memory=[50])
    assert math.isnan(short.growth())
    assert short.lines()[-1].endswith("too few readings to tell its growth")


def test_numbers_may_differ_in_their_last_bits_and_nothing_else_may():
    assert same([1, "a", {"b": [-1.0, None]}], [1, "a", {"b": (-1.0005, None)}])
    assert not same([1.0], [1.1])
    assert not same(["a"], ["b"])
    assert not same({"a": 1}, {"a": 1, "b": 2})
    assert not same([1], [1, 2])


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        ([["b", -1.0], ["a", -1.0005], ["c", -3.0]], True),  # as likely, in other places
        ([["a", -1.0], ["b", -1.0], ["d", -3.0005]], True),  # as likely as the last, which was left out
        ([["a", -1.0], ["d", -1.0], ["c", -3.0]], False),  # likelier than the last, and not seen alone
        ([["a", -1.0], ["b", -1.1], ["c", -3.0]], False),
        ([["a", -1.0], ["b", -1.0]], False),
    ],
)
def test_likely_tokens_may_change_places_only_where_they_are_as_likely(other, alike):
    alone = {"text": "a", "tops": [[["a", -1.0], ["b", -1.0], ["c", -3.0]]]}
    assert same(alone, {"text": "a", "tops": [other]}) == alike


def test_a_reading_that_a_server_lacks_is_told():
    with answering() as url:
        assert gauge(url, "owl2_programs") == 12
        with pytest.raises(Owl2Error, match="has no reading 'owl2_nothing'"):
            gauge(url, "owl2_nothing")
