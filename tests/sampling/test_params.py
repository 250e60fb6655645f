"""Settings of a request's choice: ranges, and the random streams of several answers."""

from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.request import Request
from owl2_jax.sampling.params import Sampling
from owl2_jax.structured.form import json_object


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1},
        {"min_p": 2}, {"repetition_penalty": 0}, {"seed": -1}, {"temperature": "hot"}, {"top_k": 1.5},
        {"presence_penalty": 2.1}, {"frequency_penalty": -2.1}, {"frequency_penalty": float("inf")},
        {"logit_bias": {"3": 101}}, {"logit_bias": {"3": "much"}}, {"logit_bias": {"yes": 1}},
        {"logit_bias": {"-3": 1}}, {"logit_bias": {"03": 1}}, {"logit_bias": {"9999999999": 1}},
        {"logit_bias": [3]}, {"logit_bias": {str(token): 1 for token in range(301)}},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(Owl2Error, match=next(iter(wrong))):
        Sampling(**wrong)


def test_ids_beyond_the_tokenizer_are_refused_by_name():
    Sampling(logit_bias={"299": 1}).check_tokens(300)
    with pytest.raises(Owl2Error, match="logit_bias names the token 300; the tokenizer has the ids 0 to 299"):
        Sampling(logit_bias={"300": 1}).check_tokens(300)
    with pytest.raises(Owl2Error, match="stop_token_ids names the token 300"):
        Request("a", stop_token_ids=[5, 300]).check_tokens(300)


def test_greedy_choice_without_penalty_and_bias_is_plain():
    assert Sampling(top_k=3, seed=5).plain
    for setting in (
        {"temperature": 0.1},
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"logit_bias": {"3": 1}},
    ):
        assert not Sampling(**setting).plain


def test_answers_to_one_prompt_have_streams_of_their_own():
    requests = [Request("a", sampling=Sampling(seed=seed)) for seed in (0, 1, 2**63 - 1)]
    seeds = [one.sampling.seed for request in requests for one in request.choices(8)]
    assert len(set(seeds)) == 24
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds[::8] == [0, 1, 2**63 - 1]  # the first is the answer that is given alone
    assert len({seed >> 55 for seed in seeds}) > 15  # far apart


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stop_token_ids": 3}, "stop_token_ids is 3"),
        ({"stop_token_ids": list(range(16))}, "at most 15"),
        ({"stop_token_ids": [-1]}, "stop_token_ids must be at least 0"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids: expected a whole number"),
        ({"ignore_eos": 1}, "ignore_eos is 1; expected true or false"),
        (
            {"ignore_eos": True, "structured": json_object("response_format")},
            "ignore_eos and response_format",
        ),
        ({"min_new_tokens": 3, "structured": json_object("response_format")}, "exclude each other"),
    ],
)
def test_wrong_ends_are_refused(settings, words):
    with pytest.raises(Owl2Error, match=words):
        Request("a", **settings)


def test_ends_of_an_answer():
    assert Request("a").end_ids(2) == (2,)
    assert Request("a", stop_token_ids=[5, 2, 7]).end_ids(2) == (2, 5, 7)
    assert Request("a", stop_token_ids=[5], ignore_eos=True).end_ids(2) == (5,)
