"""A chat completion as it was asked for: JSON of the OpenAI API to messages and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from owl2_jax.data.messages import IMAGE_TAGS
from owl2_jax.inference.sampling import Sampling
from owl2_jax.serving import fields
from owl2_jax.serving.errors import ApiError
from owl2_jax.serving.fields import wrong

MAX_MESSAGES = 1000


@dataclass(frozen=True)
class Conversation:
    """Messages as the engine takes them.

    Attributes:
      messages: role and text, user and assistant in turn; an image tag stands
        where a picture does.
      pictures: the URL of each, in the order of the tags.
    """

    messages: list[dict[str, str]]
    pictures: list[str]


@dataclass(frozen=True)
class ChatCall:
    """What a client asks for.

    Attributes:
      model: the name it wants, or None.
      conversation: messages and pictures.
      sampling: how tokens are chosen.
      max_new_tokens: None for as many as there is room for.
      min_new_tokens: tokens before the model may end the answer.
      stop: texts that end the answer.
      stream: piece by piece.
      include_usage: with the numbers of tokens in a last piece.
      logprobs: with log-probabilities of the tokens.
      top_logprobs: and of this many likely ones at each.
    """

    model: str | None
    conversation: Conversation
    sampling: Sampling
    max_new_tokens: int | None
    min_new_tokens: int
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    logprobs: bool
    top_logprobs: int


def read_call(call: Mapping[str, Any], image_tag: str, max_pictures: int) -> ChatCall:
    """Reads and checks everything but the pictures themselves.

    Raises:
      ApiError: a field that is unknown, missing, of the wrong type or out of range.
    """
    fields.check_names(call)
    fields.read_whole(call, "n", 1, 1)
    return ChatCall(
        model=fields.read_text(call, "model"),
        conversation=read_conversation(call, image_tag, max_pictures),
        sampling=fields.read_sampling(call),
        max_new_tokens=fields.read_length(call),
        min_new_tokens=fields.read_whole(call, "min_tokens", 0, 2**31 - 1) or 0,
        stop=fields.read_stop(call),
        stream=fields.read_bool(call, "stream"),
        include_usage=fields.read_include_usage(call),
        logprobs=fields.read_bool(call, "logprobs"),
        top_logprobs=fields.read_top_logprobs(call),
    )


def read_conversation(call: Mapping[str, Any], image_tag: str, max_pictures: int) -> Conversation:
    """Reads `messages`.

    The models know no system message: its text stands in front of the first
    question. Pictures stand where their parts do.

    Raises:
      ApiError: as `read_call`, or more than `max_pictures` pictures.
    """
    found = call.get("messages")
    if not isinstance(found, list) or not 0 < len(found) <= MAX_MESSAGES:
        raise wrong("messages", found, f"expected a list of 1 to {MAX_MESSAGES} messages")
    pictures: list[str] = []
    texts = [_read_message(f"messages[{i}]", message, image_tag, pictures) for i, message in enumerate(found)]
    if len(pictures) > max_pictures:
        raise ApiError(
            f"the conversation has {len(pictures)} pictures; expected at most {max_pictures}",
            code="too_many_images",
            param="messages",
        )
    system = [text for role, text in texts if role == "system" and text]
    turns = [{"role": role, "content": text} for role, text in texts if role != "system"]
    _check_turns(texts, turns)
    turns[0]["content"] = "\n".join([*system, turns[0]["content"]])
    return Conversation(turns, pictures)


def _check_turns(texts: list[tuple[str, str]], turns: list[dict[str, str]]) -> None:
    roles = [role for role, _ in texts]
    first = next((i for i, role in enumerate(roles) if role != "system"), len(roles))
    if "system" in roles[first:]:
        raise ApiError("a system message stands in the middle; expected it first", param="messages")
    expected = ["user", "assistant"] * (len(turns) // 2) + ["user"]
    if [turn["role"] for turn in turns] != expected:
        found = ", ".join(roles[:6]) + (", ..." if len(roles) > 6 else "")
        raise ApiError(
            f"the roles are {found}; expected the user and the assistant in turn, the user first and last",
            param="messages",
        )


def _read_message(where: str, message: Any, image_tag: str, pictures: list[str]) -> tuple[str, str]:
    """Role and text; the URLs of pictures go into `pictures`."""
    if not isinstance(message, dict):
        raise wrong(where, message, "expected an object with 'role' and 'content'")
    role = message.get("role")
    role = "system" if role == "developer" else role
    if role not in ("system", "user", "assistant"):
        raise wrong(f"{where}.role", role, "expected 'system', 'user' or 'assistant'")
    content = message.get("content")
    if isinstance(content, str):
        return role, _plain(f"{where}.content", content)
    if not isinstance(content, list) or not content:
        raise wrong(f"{where}.content", content, "expected a text or a list of content parts")
    return role, _read_parts(f"{where}.content", content, image_tag, pictures if role == "user" else None)


def _read_parts(where: str, parts: list[Any], image_tag: str, pictures: list[str] | None) -> str:
    text = ""
    for index, part in enumerate(parts):
        at = f"{where}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            # Two texts side by side are two lines; text and picture touch, as in training.
            between = "\n" if text and not text.endswith(image_tag) else ""
            text += between + _plain(f"{at}.text", part.get("text"))
        elif kind == "image_url":
            if pictures is None:
                raise ApiError(f"{at} is a picture; only the user's messages may have any", param=at)
            pictures.append(_read_url(f"{at}.image_url", part.get("image_url")))
            text += image_tag
        else:
            raise wrong(at, part, "expected a part of type 'text' or 'image_url'")
    return text


def _read_url(where: str, value: Any) -> str:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str) or not url:
        raise wrong(where, value, "expected an object with 'url'")
    return url


def _plain(where: str, text: Any) -> str:
    """A text that is really one; an image tag in it would be a picture that is not there."""
    if not isinstance(text, str):
        raise wrong(where, text, "expected a text")
    for tag in IMAGE_TAGS:
        if tag in text:
            raise ApiError(
                f"{where} holds the image tag {tag!r}; send pictures as parts of type 'image_url'",
                param=where,
            )
    return text
