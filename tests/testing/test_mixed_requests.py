"""Requests of every kind are drawn, the same ones for a seed, and a server takes all but the bad ones."""

from __future__ import annotations

import json
import random

from owl2_jax.serving.calls import read_call
from owl2_jax.serving.errors import ApiError
from owl2_jax.serving.text_calls import read_text_call
from owl2_jax.testing.mixed_requests import KINDS, draw


def drawn(seed, count=200):
    rng = random.Random(seed)
    return [draw(rng, 5, 20) for _ in range(count)]


def test_the_same_seed_draws_the_same_requests_of_all_kinds():
    assert drawn(1, 40) == drawn(1, 40)
    assert drawn(1, 40) != drawn(2, 40)
    assert {one.kind for one in drawn(1)} == set(KINDS)


def test_a_server_reads_every_request_that_is_not_a_bad_one():
    for one in drawn(3):
        call = json.loads(one.body)
        if one.path == "/v1/chat/completions" and one.kind != "bad":
            assert read_call(call, 16).conversation.messages
        elif one.path == "/v1/completions":
            assert read_text_call(call).prompts


def test_streams_of_both_interfaces_are_asked_for_numbers_of_tokens():
    asked = {one.path for one in drawn(5) if "stream_options" in json.loads(one.body)}
    assert asked == {"/v1/chat/completions", "/v1/completions"}


def is_refused(call):
    try:
        read_call(call, 16)
    except ApiError as error:
        return error.status == 400
    return False


def test_most_bad_requests_are_refused_where_they_are_read():
    bad = [json.loads(one.body) for one in drawn(4) if one.kind == "bad"]
    assert len(bad) / 2 < sum(map(is_refused, bad))
