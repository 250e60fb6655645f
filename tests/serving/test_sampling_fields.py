"""Fields of choice, ends and forms: read with OpenAI's and vLLM's names, refused by name."""

from __future__ import annotations

import json

import pytest

from owl2_jax.serving.calls import read_call
from owl2_jax.serving.errors import ApiError

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def read(**settings):
    return read_call({"messages": [{"role": "user", "content": "What?"}], **settings}, 3)


def test_settings_are_taken_over():
    call = read(
        presence_penalty=-2, frequency_penalty=1.5, repetition_penalty=1.2, min_p=0.1, n=8,
        logit_bias={"5": -100, "17": 0.5}, stop_token_ids=[13, 29871], ignore_eos=True,
    )  # fmt: skip
    sampling = call.sampling
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-2, 1.5)
    assert (sampling.repetition_penalty, sampling.min_p) == (1.2, 0.1)
    assert sampling.logit_bias == {"5": -100, "17": 0.5}
    assert (call.count, call.stop_token_ids, call.ignore_eos) == (8, (13, 29871), True)


def test_defaults_change_nothing():
    call = read()
    assert not call.sampling.penalized
    assert not call.sampling.logit_bias
    assert (call.count, call.stop_token_ids, call.ignore_eos, call.structured) == (1, (), False, None)


@pytest.mark.parametrize(
    ("settings", "kind", "name"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
            "json_schema",
            "response_format.json_schema.schema",
        ),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", "structured_outputs.json"),
        ({"structured_outputs": {"json_object": True}}, "json_object", "structured_outputs.json_object"),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "choice", "structured_outputs.choice"),
        ({"structured_outputs": {"regex": "a+", "json": None}}, "regex", "structured_outputs.regex"),
        (
            {"structured_outputs": {"grammar": "start: A", "json_object": False}},
            "grammar",
            "structured_outputs.grammar",
        ),
    ],
)
def test_forms_have_the_names_of_openai_and_vllm(settings, kind, name):
    form = read(**settings).structured
    assert (form.kind, form.name) == (kind, name)
    if kind == "json_schema":
        assert json.loads(form.text) == SCHEMA


def test_plain_text_is_no_form():
    assert read(response_format={"type": "text"}).structured is None
    assert read(response_format=None, structured_outputs=None).structured is None


@pytest.mark.parametrize(
    ("settings", "param", "words"),
    [
        ({"presence_penalty": 2.1}, "presence_penalty", "from -2 to 2"),
        ({"frequency_penalty": -3}, "frequency_penalty", "from -2 to 2"),
        ({"frequency_penalty": "1"}, "frequency_penalty", "from -2 to 2"),
        ({"repetition_penalty": 0}, "repetition_penalty", "from 0.1 to 10"),
        ({"min_p": 1.5}, "min_p", "from 0 to 1"),
        ({"logit_bias": [5]}, "logit_bias", "expected an object of at most 300 token ids and numbers"),
        ({"logit_bias": {"yes": 1}}, "logit_bias", "'yes'; expected token ids in digits, as '29871'"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "from -100 to 100"),
        ({"logit_bias": {"5": None}}, "logit_bias.5", "from -100 to 100"),
        ({"logit_bias": {str(token): 1 for token in range(301)}}, "logit_bias", "at most 300"),
        ({"stop_token_ids": 13}, "stop_token_ids", "expected a list of at most 15 token ids"),
        ({"stop_token_ids": [13] * 16}, "stop_token_ids", "at most 15"),
        ({"stop_token_ids": ["</s>"]}, "stop_token_ids", "'</s>'; expected token ids"),
        ({"stop_token_ids": [True]}, "stop_token_ids", "True; expected token ids"),
        ({"ignore_eos": 1}, "ignore_eos", "true or false"),
        ({"response_format": "json"}, "response_format", "expected an object with 'type'"),
        (
            {"response_format": {"type": "xml"}},
            "response_format",
            "response_format.type is 'xml'; expected 'text' or",
        ),
        (
            {"response_format": {"typ": "text"}},
            "response_format",
            "field of response_format 'typ'; did you mean 'type'",
        ),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format",
            "belongs to the type 'json_schema'",
        ),
        (
            {"response_format": {"type": "json_object", "json_schema": {}}},
            "response_format",
            "and to no other",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
            "response_format",
            "response_format.json_schema.schema is 5; expected a JSON schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schem": {}}}},
            "response_format",
            "field of response_format.json_schema 'schem'; did you mean 'schema'",
        ),
        ({"structured_outputs": {}}, "structured_outputs", "expected one of 'json', 'json_object', 'choice'"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs", "expected one of"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", "expected one of"),
        (
            {"structured_outputs": {"choices": ["a"]}},
            "structured_outputs",
            "did you mean 'choice'",
        ),
        ({"structured_outputs": {"choice": []}}, "structured_outputs", "structured_outputs.choice is"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs", "structured_outputs.regex is 5"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
            "structured_outputs and response_format exclude each other; leave one of them out",
        ),
        (
            {"response_format": {"type": "json_object"}, "ignore_eos": True},
            "ignore_eos",
            "ignore_eos and response_format exclude each other: an answer of a given form ends where",
        ),
        ({"structured_outputs": {"regex": "a"}, "min_tokens": 3}, "min_tokens", "and structured_outputs"),
    ],
)
def test_what_is_wrong_is_told_of_its_field(settings, param, words):
    with pytest.raises(ApiError) as caught:
        read(**settings)
    assert words in str(caught.value)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert "\n" not in str(caught.value)
