"""Every field that the installed official client knows is read, of no effect, or refused by name.

A client that learns a new field makes these tests fail; then the field gets its place in
`serving.fields` or `data.turns`.
"""

from __future__ import annotations

import inspect
import typing
from typing import Any

import pytest
from openai.resources.chat.completions import Completions
from openai.types import chat
from openai.types.chat import completion_create_params

from owl2_jax.data import turns
from owl2_jax.serving import fields
from owl2_jax.serving.calls import read_call
from owl2_jax.serving.errors import ApiError

TRANSPORT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}  # not in the body
REFUSED_ROLES = {"tool", "function"}
REFUSED_PARTS = {"input_audio", "file"}


def keys(kind: Any) -> dict[str, Any]:
    """The keys of a typed dictionary, each with its type."""
    hints = typing.get_type_hints(kind)
    return {key: bare(hint) for key, hint in hints.items()}


def bare(hint: Any) -> Any:
    """A type without `Required`."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Required else hint


def choices(hint: Any) -> list[Any]:
    """The values of every `Literal` in a type."""
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    return [choice for part in typing.get_args(hint) for choice in choices(part)]


def by_tag(union: Any, tag: str) -> dict[str, Any]:
    """Typed dictionaries of a union by the value of their `tag`."""
    found = {}
    for kind in typing.get_args(union) or [union]:
        (value,) = choices(keys(kind)[tag])
        found[value] = kind
    return found


ROLES = by_tag(chat.ChatCompletionMessageParam, "role")
PARTS = by_tag(chat.ChatCompletionContentPartParam, "type") | {
    "refusal": chat.ChatCompletionContentPartRefusalParam
}
PARAMETERS = sorted(
    set(inspect.signature(Completions.create).parameters) - TRANSPORT
    | set(keys(completion_create_params.CompletionCreateParamsBase))
)


def read(**settings: Any) -> Any:
    return read_call({"messages": [{"role": "user", "content": "What?"}], **settings}, 3)


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_has_its_place_and_may_be_null(name):
    places = [name in fields.READ, name in fields.UNUSED, name in fields.FIXED]
    assert sum(places) == 1, f"{name} is new: decide in serving.fields"
    if name != "messages":
        assert read(**{name: None}).conversation == read().conversation


@pytest.mark.parametrize("name", fields.UNUSED)
def test_every_value_of_a_parameter_without_effect_is_taken(name):
    hints = keys(completion_create_params.CompletionCreateParamsBase)
    for value in [*choices(hints[name]), "any", {"a": "b"}]:
        assert read(**{name: value}).conversation == read().conversation


@pytest.mark.parametrize("name", fields.FIXED)
def test_what_would_change_the_answer_is_refused_by_name(name):
    for value in fields.FIXED[name]:
        read(**{name: value})
    with pytest.raises(ApiError) as caught:
        read(**{name: {"type": "else"}})
    assert (caught.value.status, caught.value.param) == (400, name)
    assert str(caught.value).startswith(f"{name} is")


def test_every_option_of_a_stream_is_known():
    assert set(keys(chat.ChatCompletionStreamOptionsParam)) <= set(fields.STREAM_OPTIONS)


def test_every_role_is_known():
    assert set(ROLES) == {*turns.ROLES, *REFUSED_ROLES}


@pytest.mark.parametrize("role", turns.ROLES)
def test_every_key_of_a_message_has_its_place_and_may_be_null(role):
    for key in keys(ROLES[role]):
        places = [key in turns.READ_KEYS, key in turns.UNUSED_KEYS, key in turns.EMPTY_KEYS]
        assert sum(places) == 1, f"{key} of {role} is new: decide in data.turns"
    optional = dict.fromkeys(set(keys(ROLES[role])) - {"role", "content"})
    last = {"role": "user", "content": "What?"}
    assert read(messages=[{"role": role, "content": "a", **optional}, last])


def test_an_answer_may_be_sent_back_as_it_came():
    """`message.model_dump()` has every key of the client's answers, most of them null."""
    for content in ("A cat.", None):
        answer = chat.ChatCompletionMessage(role="assistant", content=content).model_dump()
        question = {"role": "user", "content": "What?"}
        call = read(messages=[question, answer, question])
        assert len(call.conversation.messages) == (3 if content else 1)


def test_every_part_of_a_content_has_its_place():
    assert set(PARTS) == {*turns.PART_KINDS, *REFUSED_PARTS}
    for kind in turns.PART_KINDS:
        assert set(keys(PARTS[kind])) <= {"type", kind, *turns.UNUSED_PART_KEYS}
    url = keys(PARTS["image_url"])["image_url"]
    assert set(keys(url)) == set(turns.URL_KEYS)
    assert choices(keys(url)["detail"]) == list(turns.DETAILS)
    for kind in REFUSED_PARTS:
        with pytest.raises(ApiError, match=f"'{kind}'"):
            read(messages=[{"role": "user", "content": [{"type": kind, kind: {}}]}])


def test_what_the_client_calls_null_or_empty_is_empty_here_too():
    for key in turns.EMPTY_KEYS:
        for value in (None, [], {}, ""):
            message = {"role": "assistant", "content": "a", key: value}
            assert read(messages=[message, {"role": "user", "content": "What?"}])
