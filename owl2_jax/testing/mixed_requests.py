"""Requests of all kinds that a server of completions takes, drawn at random."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from owl2_jax.testing import tiny
from owl2_jax.testing.http_client import CHAT

_IMAGE_SIZE: Final = 56
_WORDS: Final = (
    "what", "which", "color", "shape", "is", "are", "there", "this", "that", "in", "the", "image", "left",
    "of", "right", "a", "red", "blue", "green", "circle", "square", "triangle", "how", "many", "do", "you",
    "see", "and", "why",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
      kind: a name for people.
      path: that it is posted to.
      body: JSON.
    """

    kind: str
    path: str
    body: bytes


def draw(rng: random.Random, images: int, longest: int) -> Asked:
    """A request of a random kind.

    Args:
      images: how many different ones there are.
      longest: tokens of an answer.
    """
    kind = rng.choice(list(KINDS))
    path, call = KINDS[kind](rng, images, longest)
    return Asked(kind, path, json.dumps(call).encode())


def image_url(seed: int) -> str:
    """A random image as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(tiny.image_file(seed, _IMAGE_SIZE)).decode()}"


def _text(rng: random.Random, most: int = 40) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(2, most)))


def _messages(rng: random.Random, images: int) -> list[dict[str, Any]]:
    """One to three turns; the first may show up to three images, several requests the same ones."""
    seen = [rng.randrange(images) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
    parts = [{"type": "image_url", "image_url": {"url": image_url(seed)}} for seed in seen]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": _text(rng)}]}]
    for _ in range(rng.choice((0, 0, 1))):
        messages.append({"role": "assistant", "content": _text(rng, 8)})
        messages.append({"role": "user", "content": _text(rng, 8)})
    return messages


def _chat(rng: random.Random, images: int, longest: int, **more: Any) -> tuple[str, dict[str, Any]]:
    call = {
        "messages": _messages(rng, images),
        "max_tokens": rng.randint(1, longest),
        "temperature": rng.choice((0, 0, 0.7, 1.0)),
        "seed": rng.randrange(2**31),
        "stream": rng.random() < 0.7,
        "ignore_eos": rng.random() < 0.5,
    }
    return CHAT, {**call, **_counted(rng, call["stream"]), **more}


def _counted(rng: random.Random, stream: bool) -> dict[str, Any]:
    """A stream tells numbers of tokens where it is asked to; a whole answer always does."""
    asked = {"include_usage": True, "continuous_usage_stats": rng.random() < 0.3}
    return {"stream_options": asked} if stream and rng.random() < 0.7 else {}


def _penalties(rng: random.Random) -> dict[str, Any]:
    return {
        "repetition_penalty": rng.choice((1.0, 1.2)),
        "presence_penalty": rng.choice((0, 0.5)),
        "frequency_penalty": rng.choice((0, 0.5)),
        "logit_bias": rng.choice(({}, {"100": 5, "101": -100})),
        "min_p": rng.choice((0, 0.05)),
        "top_p": rng.choice((1, 0.9)),
        "top_k": rng.choice((-1, 20)),
    }


def _form(rng: random.Random) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2, 3]}}, "required": ["a"]}
    forms = (
        {"structured_outputs": {"choice": ["red", "dark blue", "a green circle"]}},
        {"structured_outputs": {"regex": "[a-c]{2,9}"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}},
    )
    return {**rng.choice(forms), "ignore_eos": False}


def _texts(rng: random.Random, longest: int) -> tuple[str, dict[str, Any]]:
    prompts = rng.choice((_text(rng), [_text(rng), _text(rng)], [rng.randint(5, 200) for _ in range(9)]))
    call = {
        "prompt": prompts,
        "max_tokens": rng.randint(1, longest),
        "temperature": rng.choice((0, 0.8)),
        "seed": rng.randrange(2**31),
        "logprobs": rng.choice((None, 0, 2)),
        "echo": rng.random() < 0.5,
        "stream": rng.random() < 0.5,
    }
    return "/v1/completions", {**call, **_counted(rng, call["stream"])}


def _look(rng: random.Random, images: int) -> tuple[str, dict[str, Any]]:
    parts = [
        {"type": "image_url", "image_url": {"url": image_url(rng.randrange(images))}},
        {"type": "text", "text": _text(rng, 5)},
    ]
    return "/v1/attention", {"messages": [{"role": "user", "content": parts}], "answer": _text(rng, 5)}


def _bad(rng: random.Random, images: int, longest: int) -> tuple[str, dict[str, Any]]:
    faults = (
        {"temperature": 7}, {"messages": []}, {"max_tokens": "many"}, {"top_logprobs": 3},
        {"structured_outputs": {"regex": "("}}, {"logit_bias": {"99999999": 1}}, {"tempereature": 1},
    )  # fmt: skip
    return _chat(rng, images, longest, **rng.choice(faults))


KINDS: Final[dict[str, Callable[[random.Random, int, int], tuple[str, dict[str, Any]]]]] = {
    "plain": _chat,
    "several answers": lambda rng, images, longest: _chat(rng, images, longest, n=rng.randint(2, 4)),
    "penalties": lambda rng, images, longest: _chat(rng, images, longest, **_penalties(rng)),
    "stops": lambda rng, images, longest: _chat(
        rng, images, longest, stop=["e", "ng"], stop_token_ids=[50, 60], min_tokens=2
    ),
    "log-probabilities": lambda rng, images, longest: _chat(
        rng, images, longest, logprobs=True, top_logprobs=rng.choice((0, 3))
    ),
    "form": lambda rng, images, longest: _chat(rng, images, longest, **_form(rng)),
    "texts": lambda rng, images, longest: _texts(rng, longest),
    "look": lambda rng, images, longest: _look(rng, images),
    "bad": _bad,
}
