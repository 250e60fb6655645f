"""Completions of texts as they are asked for: prompts of every kind, every field of the official client."""

from __future__ import annotations

import inspect

import pytest
from openai.resources.completions import Completions
from openai.types import completion_create_params

from owl2_jax.serving import text_calls
from owl2_jax.serving.errors import ApiError
from owl2_jax.serving.text_calls import read_text_call
from tests.serving.test_official_client import TRANSPORT, keys

PARAMETERS = sorted(
    set(inspect.signature(Completions.create).parameters) - TRANSPORT
    | set(keys(completion_create_params.CompletionCreateParamsBase))
)


def read(prompt="The sky is", **settings):
    return read_text_call({"prompt": prompt, **settings})


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_has_its_place_and_may_be_null(name):
    places = [name in text_calls.READ, name in text_calls.UNUSED, name in text_calls.FIXED]
    assert sum(places) == 1, f"{name} is new: decide in serving.text_calls"
    if name != "prompt":
        assert read(**{name: None}).prompts == ("The sky is",)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ("a",)),
        ("", ("",)),
        (["a", "b"], ("a", "b")),
        ([1, 5, 7], ((1, 5, 7),)),
        ([[1, 5], [7]], ((1, 5), (7,))),
    ],
)
def test_prompts_are_texts_or_ids_or_lists_of_them(prompt, prompts):
    assert read(prompt).prompts == prompts


def test_defaults_are_those_of_openai():
    call = read()
    assert (call.max_new_tokens, call.count, call.echo, call.logprobs, call.top_logprobs) == (
        16,
        1,
        False,
        False,
        0,
    )
    assert (call.sampling.temperature, call.stop, call.stream) == (1.0, (), False)


def test_log_probabilities_are_a_number_here():
    assert (read(logprobs=0).logprobs, read(logprobs=0).top_logprobs) == (True, 0)
    assert (read(logprobs=5).logprobs, read(logprobs=5).top_logprobs) == (True, 5)


def test_best_of_as_many_as_are_wanted_is_no_wish():
    assert read(n=3, best_of=3).count == 3
    with pytest.raises(ApiError, match="best_of is 5; expected null or as many as n, which is 3"):
        read(n=3, best_of=5)


@pytest.mark.parametrize(
    ("settings", "param", "words"),
    [
        ({"prompt": None}, "prompt", "expected a text, a list of texts, or a list of token ids"),
        ({"prompt": []}, "prompt", "expected a text"),
        ({"prompt": 5}, "prompt", "expected a text"),
        ({"prompt": ["a", 5]}, "prompt", "expected the same kind in [1] as in [0]"),
        ({"prompt": [[1], "a"]}, "prompt", "expected the same kind in [1]"),
        ({"prompt": [[1], []]}, "prompt", "at least one token id in prompt[1]"),
        ({"prompt": [1, "a"]}, "prompt", "'a'; expected token ids in prompt"),
        ({"prompt": [1, -200]}, "prompt", "-200; expected token ids in prompt"),
        ({"prompt": [1, True]}, "prompt", "True; expected token ids"),
        ({"prompt": ["a"] * 65}, "prompt", "65 prompts; expected at most 64"),
        ({"prompt": "<|image|>What?"}, "prompt", "send images to /v1/chat/completions"),
        ({"prompt": ["a", "\ud800"]}, "prompt", "prompt[1] holds half of a surrogate pair"),
        ({"suffix": "end"}, "suffix", "nothing but null is supported"),
        ({"logprobs": True}, "logprobs", "whole number from 0 to 20"),
        ({"max_tokens": 0}, "max_tokens", "from 1"),
        ({"n": 9}, "n", "from 1 to 8"),
        ({"messages": []}, "messages", "unknown field 'messages'"),
        ({"promt": "a"}, "promt", "did you mean 'prompt'"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "needs 'stream'"),
    ],
)
def test_what_is_wrong_is_told_of_its_field(settings, param, words):
    with pytest.raises(ApiError) as caught:
        read(**settings)
    assert words in str(caught.value)
    assert (caught.value.status, caught.value.param) == (400, param)
