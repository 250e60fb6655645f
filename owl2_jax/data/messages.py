"""Dialogues as messages: image tags, checks, and LLaVA's form of them.

A dialogue is a list of `{"role": "user" | "assistant", "content": str}`, the
user first and in turn, in which image tags mark where the images stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.prompt_format import IMAGE_TAG

ImageTag = Literal["<|image|>", "<image>"]  # this project's and LLaVA's
IMAGE_TAGS: tuple[ImageTag, ...] = get_args(ImageTag)
# Marks an image where texts are anybody's and may hold the tags above as words: half of a
# surrogate pair, which no text with a UTF-8 form has.
IMAGE_MARK = "\udcff"

Message = Mapping[str, str]

_TAG_LOOKALIKE = re.compile(r"<\|?/?(?:im|img|image|picture|photo|video)[\w :-]{0,12}\|?>", re.IGNORECASE)
# What other formats put into a turn; a model that is not shown it learns to make it up.
_UNSEEN = ("image", "images", "img", "video", "videos", "audio", "tool_calls", "function_call")
_LLAVA_ROLES = {"human": "user", "gpt": "assistant"}


class ConversationError(Owl2Error):
    """A dialogue that cannot be rendered. `reason` is a short key for counting."""

    reason = "bad_conversation"


class ImageTagError(ConversationError):
    """A text with the image tag of another format than the run's."""

    reason = "wrong_tag"


class ImageCountError(ConversationError):
    """More image tags than images, or fewer."""

    reason = "image_count"


def check_messages(
    messages: Sequence[Message], image_tag: str, num_images: int | None = None, assistant_first: bool = False
) -> None:
    """Checks that messages can be encoded.

    Args:
      messages: the dialogue.
      image_tag: the run's image tag, one of `IMAGE_TAGS`, or `IMAGE_MARK`.
      num_images: images that belong to it; None leaves the number unchecked.
      assistant_first: whether the assistant may have the first turn.

    Raises:
      UnknownNameError: `image_tag` is none of `IMAGE_TAGS`.
      ConversationError: no messages, roles out of order, a content that is no text.
      ImageTagError: a text holds the other image tag.
      ImageCountError: tags and images differ in number.
    """
    _require_tag(image_tag)
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise ConversationError(f"the conversation is {_short(messages)}; expected a list of messages")
    if not messages:
        raise ConversationError("the conversation is empty; at least one user message is expected")
    greeted = assistant_first and isinstance(messages[0], Mapping) and messages[0].get("role") == "assistant"
    for index, message in enumerate(messages):
        _check_message(index, message, ("user", "assistant")[(index + greeted) % 2])
        _check_tag(message["content"], image_tag)
    if num_images is not None:
        _check_count(messages, image_tag, num_images)


def from_llava(
    conversations: Sequence[Mapping[str, str]], file_tag: str = "<image>", image_tag: str = IMAGE_TAG
) -> list[dict[str, str]]:
    """Converts LLaVA's `{"from": "human" | "gpt", "value": str}` turns to messages.

    A greeting of the assistant before the first question is left out, as in the
    released code. `file_tag` is the image tag of the file; it becomes
    `image_tag`, the run's.

    Raises:
      UnknownNameError: a tag is none of `IMAGE_TAGS`.
      ConversationError: the turns are not such a list.
      ImageTagError: a text holds an image tag other than `file_tag`.
    """
    _require_tag(file_tag)
    _require_tag(image_tag)
    if not isinstance(conversations, Sequence) or isinstance(conversations, str):
        raise ConversationError(f"'conversations' is {_short(conversations)}; expected a list of turns")
    messages = [_from_llava_turn(index, turn, file_tag) for index, turn in enumerate(conversations)]
    if messages and messages[0]["role"] == "assistant":
        messages = messages[1:]
    return [{**m, "content": m["content"].replace(file_tag, image_tag)} for m in messages]


def _from_llava_turn(index: int, turn: object, file_tag: str) -> dict[str, str]:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
        raise ConversationError(f"turn {index} is {_short(turn)}; expected 'from' and a text as 'value'")
    speaker = turn.get("from")
    if not isinstance(speaker, str) or speaker not in _LLAVA_ROLES:
        meant = [name for name, role in _LLAVA_ROLES.items() if role == speaker]
        hint = f"; write {meant[0]!r}" if meant else ""
        raise ConversationError(f"turn {index} is from {_short(speaker)}; expected 'human' or 'gpt'{hint}")
    _refuse_unseen(f"turn {index}", turn, _UNSEEN)
    _check_tag(turn["value"], file_tag)
    return {"role": _LLAVA_ROLES[speaker], "content": turn["value"]}


def _check_message(index: int, message: Message, expected: str) -> None:
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
        raise ConversationError(
            f"message {index} is {_short(message)}; expected a role and a text as content"
        )
    _refuse_unseen(f"message {index}", message, [key for key in message if key not in ("role", "content")])
    role = message.get("role")
    if role not in ("user", "assistant"):
        raise ConversationError(f"message {index} has role {_short(role)}; expected 'user' or 'assistant'")
    if role != expected:
        raise ConversationError(
            f"message {index} is the {role}'s, expected the {expected}'s; start with the user and take turns"
        )


def _refuse_unseen(name: str, message: Mapping[str, object], keys: Iterable[str]) -> None:
    """Raises ConversationError for a value that the model would not see."""
    for key in keys:
        if message.get(key):
            raise ConversationError(
                f"{name} has {key!r}, which is not read: images are named beside the messages, with a tag "
                "in the text for each; anything else has to be left out"
            )


def _require_tag(image_tag: str) -> None:
    if image_tag not in (*IMAGE_TAGS, IMAGE_MARK):
        raise unknown_name("image tag", image_tag, IMAGE_TAGS)


def _check_tag(text: str, image_tag: str) -> None:
    if image_tag == IMAGE_MARK:
        return
    for other in IMAGE_TAGS:
        if other != image_tag and other in text:
            raise ImageTagError(
                f"found the image tag {other!r}, expected {image_tag!r}: the image would be lost; "
                f"write {image_tag!r} there, or set the image tag of this source in the config"
            )


def _check_count(messages: Sequence[Message], image_tag: str, num_images: int) -> None:
    tags = sum(m["content"].count(image_tag) for m in messages)
    if tags == num_images:
        return
    alike = [t for m in messages for t in _TAG_LOOKALIKE.findall(m["content"]) if t != image_tag]
    hint = f" ({alike[0]!r} is not this run's tag)" if alike else ""
    raise ImageCountError(
        f"found {tags} image tags {image_tag!r} for {num_images} images{hint}; "
        "give one image per tag, in the order of the tags"
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
