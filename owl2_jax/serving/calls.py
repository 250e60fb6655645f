"""A chat completion as it was asked for: JSON of the OpenAI API to messages and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from owl2_jax.data.messages import IMAGE_MARK
from owl2_jax.data.turns import MessageError, read_turns
from owl2_jax.sampling.params import MAX_CHOICES, Sampling
from owl2_jax.serving import fields, sampling_fields
from owl2_jax.serving.errors import ApiError
from owl2_jax.serving.fields import wrong
from owl2_jax.structured.form import Structured

MAX_MESSAGES = 1000


@dataclass(frozen=True)
class Conversation:
    """Messages as the engine takes them.

    Attributes:
      messages: role and text, user and assistant in turn; `IMAGE_MARK` stands
        where an image does.
      images: the URL of each, in the order of the marks.
    """

    messages: list[dict[str, str]]
    images: list[str]


@dataclass(frozen=True, kw_only=True)
class Call:
    """What a client asks for, whatever the prompt is.

    Attributes:
      model: the name it wants, or None.
      sampling: how tokens are chosen.
      count: answers to each prompt.
      max_new_tokens: None for as many as there is room for.
      min_new_tokens: tokens before the answer may end.
      stop: texts that end the answer.
      stop_token_ids: tokens that end the answer.
      ignore_eos: `</s>` does not end the answer.
      structured: what the answer must look like, or None.
      stream: piece by piece.
      include_usage: with the numbers of tokens in a last piece.
      usage_in_pieces: with the numbers of tokens so far in every piece.
      logprobs: with log-probabilities of the tokens.
      top_logprobs: and of this many likely ones at each.
    """

    model: str | None
    sampling: Sampling
    count: int
    max_new_tokens: int | None
    min_new_tokens: int
    stop: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    ignore_eos: bool
    structured: Structured | None
    stream: bool
    include_usage: bool
    usage_in_pieces: bool
    logprobs: bool
    top_logprobs: int


@dataclass(frozen=True, kw_only=True)
class ChatCall(Call):
    """What a client asks for in a chat completion.

    Attributes:
      conversation: messages and images.
    """

    conversation: Conversation


def read_call(call: Mapping[str, Any], max_images: int) -> ChatCall:
    """Reads and checks everything but the images themselves.

    Raises:
      ApiError: a field that is unknown, missing, of the wrong type or out of range, or
        fields that exclude each other.
    """
    fields.check_names(call)
    return ChatCall(
        conversation=read_conversation(call, max_images),
        max_new_tokens=fields.read_length(call),
        logprobs=fields.read_bool(call, "logprobs"),
        top_logprobs=fields.read_top_logprobs(call),
        **read_shared(call),
    )


def read_shared(call: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that all calls have, as arguments of `Call`."""
    include_usage, usage_in_pieces = fields.read_stream_options(call)
    shared = {
        "model": fields.read_text(call, "model"),
        "sampling": sampling_fields.read_sampling(call),
        "count": fields.read_whole(call, "n", 1, MAX_CHOICES) or 1,
        "min_new_tokens": fields.read_whole(call, "min_tokens", 0, 2**31 - 1) or 0,
        "stop": fields.read_stop(call),
        "stop_token_ids": sampling_fields.read_stop_tokens(call),
        "ignore_eos": fields.read_bool(call, "ignore_eos"),
        "structured": sampling_fields.read_structured(call),
        "stream": fields.read_bool(call, "stream"),
        "include_usage": include_usage,
        "usage_in_pieces": usage_in_pieces,
    }
    sampling_fields.check_together(call, shared["structured"])
    return shared


def read_conversation(call: Mapping[str, Any], max_images: int) -> Conversation:
    """Reads `messages`, as `data.turns` says; images stand where their parts do.

    Raises:
      ApiError: as `read_call`, or more than `max_images` images.
    """
    found = call.get("messages")
    if not isinstance(found, list) or not 0 < len(found) <= MAX_MESSAGES:
        raise wrong("messages", found, f"expected a list of 1 to {MAX_MESSAGES} messages")
    images: list[str] = []
    try:
        turns = read_turns(found, IMAGE_MARK, lambda _, url: images.append(url))
    except MessageError as error:
        raise ApiError(str(error), code=error.code, param=error.where) from None
    if len(images) > max_images:
        raise ApiError(
            f"the conversation has {len(images)} images; expected at most {max_images}, "
            "the limit of this server",
            code="too_many_images",
            param="messages",
        )
    return Conversation(turns, images)
