"""Mutated chat completions: a call is read, or refused with a 4xx error that says why in one line."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from owl2_jax.data import turns
from owl2_jax.serving import fields
from owl2_jax.serving.body import parse_object
from owl2_jax.serving.calls import ChatCall, read_call
from owl2_jax.serving.errors import ApiError

MAX_IMAGES = 3
_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
_SEED: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [_IMAGE, {"type": "text", "text": "What?"}], "name": "ann"},
        {"role": "assistant", "content": "A cat.", "tool_calls": [], "refusal": None},
        {"role": "user", "content": "Why?", "images": ["AAAA"]},
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
    "stop": ["a", "b"],
    "temperature": 0.5,
    "max_tokens": 10,
    "logprobs": True,
    "top_logprobs": 2,
    "seed": 5,
    "n": 2,
    "presence_penalty": 0.5,
    "logit_bias": {"17": -100, "29871": 1.5},
    "stop_token_ids": [13],
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    "structured_outputs": None,
}  # fmt: skip
_VALUES = (
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, 2**31, 2**63, 10**40, "", "a", "null", "<image>",
    "<|image|>",  "\ud800", "\udcff", "\0", "\u2028", "user", "assistant", "tool", [], {}, [None], [[]],
    [{}], ["a", 5], {"type": "text"}, {"type": "text", "text": "a"}, _IMAGE, {"role": "user", "content": "a"},
    "data:,", "a" * 300, {"choice": ["a"]}, {"regex": "a+"}, {"type": "json_object"},
)  # fmt: skip
_NAMES = (
    *fields.READ, *fields.UNUSED, *fields.FIXED, *turns.READ_KEYS, *turns.UNUSED_KEYS, *turns.EMPTY_KEYS,
    "type", "text", "url", "image", "tools_call", "", "\ud800", "a" * 99, "temprature",
)  # fmt: skip


def cases(rng: np.random.Generator) -> Iterator[Callable[[], None]]:
    """Endless cases; each raises when a body is neither read nor refused as it should be."""
    for data in bodies(rng):
        yield lambda data=data: check(data)


def bodies(rng: np.random.Generator) -> Iterator[bytes]:
    """Endless bodies, some of them sound."""
    while True:
        body = copy.deepcopy(_SEED)
        for _ in range(int(rng.integers(1, 5))):
            _mutate(body, rng)
        yield _damage(json.dumps(body), rng)


def check(data: bytes) -> None:
    """Reads a body as the server does. Raises unless it is a call or gets a sound 4xx error."""
    try:
        call = read_call(parse_object(data), MAX_IMAGES)
    except ApiError as error:
        _check_error(error)
        return
    assert isinstance(call, ChatCall)
    conversation = call.conversation
    marks = sum(turn["content"].count(turns.IMAGE_MARK) for turn in conversation.messages)
    assert marks == len(conversation.images) <= MAX_IMAGES
    roles = [turn["role"] for turn in conversation.messages]
    assert roles[-1] == "user"
    assert all(one != other for one, other in itertools.pairwise(roles))
    assert call.max_new_tokens is None or call.max_new_tokens > 0


def _check_error(error: ApiError) -> None:
    assert 400 <= error.status < 500
    assert str(error)
    assert "\n" not in str(error)
    json.dumps(error.body(), ensure_ascii=False).encode(errors="strict")


def _mutate(body: dict[str, Any], rng: np.random.Generator) -> None:
    """Changes one place of the tree."""
    place: Any = body
    while (inner := _inner(place)) and rng.random() < 0.7:
        place = inner[rng.integers(len(inner))]
    value = copy.deepcopy(_VALUES[rng.integers(len(_VALUES))])
    if isinstance(place, dict):
        names = list(place)
        if names and rng.random() < 0.6:
            name = names[rng.integers(len(names))]
        else:
            name = _NAMES[rng.integers(len(_NAMES))]
        if name in place and rng.random() < 0.2:
            del place[name]
        else:
            place[name] = value
    elif rng.random() < 0.5 and place:
        place[rng.integers(len(place))] = value
    else:
        place.insert(int(rng.integers(len(place) + 1)), value)


def _inner(place: Any) -> list[Any]:
    values = place.values() if isinstance(place, dict) else place
    return [value for value in values if isinstance(value, dict | list)]


def _damage(text: str, rng: np.random.Generator) -> bytes:
    """The bytes of a text, now and then cut off or with a byte changed."""
    data = bytearray(text.encode())
    if rng.random() < 0.1:
        data[rng.integers(len(data))] = int(rng.integers(256))
    if rng.random() < 0.05:
        del data[rng.integers(len(data)) :]
    return bytes(data)
