"""A completion of texts as it was asked for: JSON of OpenAI's older interface to prompts and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from owl2_jax.data.messages import IMAGE_TAGS
from owl2_jax.inference.request import MAX_TOP_LOGPROBS
from owl2_jax.serving import fields
from owl2_jax.serving.calls import Call, read_shared
from owl2_jax.serving.errors import ApiError
from owl2_jax.serving.fields import wrong

MAX_PROMPTS = 64
MAX_TOKENS = 16  # of an answer, unless it is said; as OpenAI has it

READ = (
    "model", "prompt", "stream", "stream_options", "stop", "temperature", "top_p", "max_tokens", "seed",
    "logprobs", "n", "echo", "best_of", "presence_penalty", "frequency_penalty", "logit_bias",
    # Not of OpenAI's; other servers call them so, too.
    "min_tokens", "top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos",
    "response_format", "structured_outputs",
)  # fmt: skip
UNUSED = ("user",)
FIXED: Mapping[str, tuple[Any, ...]] = {"suffix": ()}


@dataclass(frozen=True, kw_only=True)
class TextCall(Call):
    """What a client asks for in a completion.

    Attributes:
      prompts: texts, or token ids.
      echo: the prompt is part of the text, and its tokens have log-probabilities, too.
    """

    prompts: tuple[str | tuple[int, ...], ...]
    echo: bool


def read_text_call(call: Mapping[str, Any]) -> TextCall:
    """Reads and checks a completion.

    Raises:
      ApiError: a field that is unknown, missing, of the wrong type or out of range, or
        fields that exclude each other.
    """
    fields.check_names(call, READ, UNUSED, FIXED)
    top = fields.read_whole(call, "logprobs", 0, MAX_TOP_LOGPROBS)
    shared = read_shared(call)
    best = fields.read_whole(call, "best_of", 1, 2**31 - 1)
    if best not in (None, shared["count"]):
        raise wrong("best_of", best, f"expected null or as many as n, which is {shared['count']}")
    echo = fields.read_bool(call, "echo")
    length = fields.read_length(call, least=0 if echo else 1)  # the prompt may be all that is asked of
    return TextCall(
        prompts=read_prompts(call),
        echo=echo,
        max_new_tokens=MAX_TOKENS if length is None else length,
        logprobs=top is not None,
        top_logprobs=top or 0,
        **shared,
    )


def read_prompts(call: Mapping[str, Any]) -> tuple[str | tuple[int, ...], ...]:
    """The prompts: a text, token ids, or a list of either."""
    value = call.get("prompt")
    if isinstance(value, str):
        return (_read_text("prompt", value),)
    if not isinstance(value, list) or not value:
        raise wrong("prompt", value, "expected a text, a list of texts, or a list of token ids")
    if not isinstance(value[0], str | list):
        return (_read_ids("prompt", value),)
    if len(value) > MAX_PROMPTS:
        message = f"prompt has {len(value)} prompts; expected at most {MAX_PROMPTS}"
        raise ApiError(message, code="invalid_value", param="prompt")
    kind, read = (str, _read_text) if isinstance(value[0], str) else (list, _read_ids)
    for place, one in enumerate(value):
        if not isinstance(one, kind):
            raise wrong("prompt", one, f"expected the same kind in [{place}] as in [0]")
    return tuple(read(f"prompt[{place}]", one) for place, one in enumerate(value))


def _read_text(where: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"{where} holds half of a surrogate pair; expected text that has a UTF-8 form"
        raise ApiError(message, code="invalid_value", param="prompt") from None
    tags = [tag for tag in IMAGE_TAGS if tag in text]
    if tags:
        raise ApiError(
            f"{where} holds the image tag {tags[0]!r}, with which no image comes; send images to "
            "/v1/chat/completions",
            code="invalid_value",
            param="prompt",
        )
    return text


def _read_ids(where: str, ids: list[Any]) -> tuple[int, ...]:
    if not ids:
        raise wrong("prompt", ids, f"expected at least one token id in {where}")
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise wrong("prompt", token, f"expected token ids in {where}, which are whole numbers from 0")
    return tuple(ids)
