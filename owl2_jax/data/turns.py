"""Conversations as people's programs send them, to turns as the templates know them.

The templates know user and assistant in turn, and the user asks last. What else
programs send is fitted to that, and nothing that is said gets lost:

- Messages of one role that follow each other are one turn, a line break between
  their texts (none after an image, as in training).
- A system or developer message, wherever it stands, is part of the user's turn
  there: the models were trained without system messages.
- An assistant may speak first; its turn then stands in front of the first question.
- A message without content says nothing. The assistant's may be null or left out.
- Any key may be null. The others are read, of no effect on an answer (`UNUSED_KEYS`),
  or refused by name.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from owl2_jax.core.errors import nearest
from owl2_jax.data.messages import IMAGE_MARK, IMAGE_TAGS, ConversationError

ROLES: Final = ("system", "developer", "user", "assistant")
READ_KEYS: Final = ("role", "content", "refusal", "images")
# Of no effect: the templates have no place for names (two of one role are refused), and
# annotations tell of links that stand in the text as well.
UNUSED_KEYS: Final = ("name", "annotations")
# What is said with them would get lost, so they must be empty.
EMPTY_KEYS: Final[Mapping[str, str]] = {
    "tool_calls": "the model calls no tools",
    "function_call": "the model calls no functions",
    "audio": "the model hears and says nothing aloud",
}
PART_KINDS: Final = ("text", "image_url", "refusal")  # each has its value under the key of its name
UNUSED_PART_KEYS: Final = ("prompt_cache_breakpoint", "cache_control")  # speed at other servers
URL_KEYS: Final = ("url", "detail")
DETAILS: Final = ("auto", "low", "high", "original")  # every image is seen at the model's one size

TakeImage = Callable[[str, str], None]


class MessageError(ConversationError):
    """A message that cannot be read.

    Attributes:
      where: the place, such as "messages[2].content".
      code: a short name of what is wrong.
    """

    def __init__(self, where: str, message: str, code: str = "invalid_value"):
        super().__init__(message)
        self.where = where
        self.code = code


def read_turns(messages: object, image_tag: str, take_image: TakeImage | None = None) -> list[dict[str, str]]:
    """The turns of a conversation that waits for an answer.

    Args:
      messages: what was sent: objects with `role` and `content`, a text or a
        list of parts.
      image_tag: what stands in the turns where an image does. `IMAGE_MARK`
        if images are parts of messages, one of `IMAGE_TAGS` if tags in the
        texts mark them.
      take_image: gets place and URL of each image, in the order of the
        tags; None where messages hold no images themselves.

    Returns:
      `{"role", "content"}` in turn, the user's last.

    Raises:
      MessageError: no messages, one that says what cannot be kept, or nobody asks.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise wrong("messages", messages, "expected a list of messages")
    if not messages:
        raise MessageError("messages", "messages is empty; expected at least one question")
    reader = _Reader(image_tag, take_image)
    said = [reader.read(f"messages[{i}]", message) for i, message in enumerate(messages)]
    return _join(said, image_tag)


def wrong(where: str, value: object, expected: str, code: str = "invalid_value") -> MessageError:
    """The error for another value than expected at a place."""
    return MessageError(where, f"{where} is {reprlib.repr(value)}; {expected}", code)


def _join(said: Sequence[tuple[str, str]], image_tag: str) -> list[dict[str, str]]:
    turns: list[dict[str, str]] = []
    for role, text in said:
        role = "assistant" if role == "assistant" else "user"
        if not text:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] = _after(turns[-1]["content"], text, image_tag)
        else:
            turns.append({"role": role, "content": text})
    roles = [role for role, _ in said]
    if "user" not in roles or (turns and turns[-1]["role"] == "assistant"):
        found = ", ".join(roles[-6:])
        raise MessageError(
            "messages",
            f"the roles are {'..., ' if len(roles) > 6 else ''}{found}; expected a question of the "
            "user's last, with a text or an image",
        )
    # Whether nothing may be asked is for the template to say.
    return turns or [{"role": "user", "content": ""}]


def _after(before: str, text: str, image_tag: str) -> str:
    """Two texts are two lines; text and image touch, as in training."""
    return before + ("\n" if before and not before.endswith(image_tag) else "") + text


class _Reader:
    """Reads single messages, and remembers who spoke."""

    def __init__(self, image_tag: str, take_image: TakeImage | None):
        self._tag = image_tag
        self._take_image = take_image
        self._names: dict[str, str] = {}

    def read(self, where: str, message: object) -> tuple[str, str]:
        """Role and text of a message, image tags in place."""
        if not isinstance(message, Mapping):
            raise wrong(where, message, "expected an object with 'role' and 'content'")
        role = message.get("role")
        if role not in ROLES:
            raise wrong(f"{where}.role", role, "expected 'system', 'user' or 'assistant'")
        self._check_keys(where, message)
        self._check_name(where, role, message.get("name"))
        shown = self._read_images(f"{where}.images", role, message.get("images"))
        text = self._read_content(f"{where}.content", role, message.get("content"))
        if message.get("refusal"):
            text = _after(text, self._plain(f"{where}.refusal", role, message["refusal"]), self._tag)
        return role, shown + text

    def _check_keys(self, where: str, message: Mapping[str, Any]) -> None:
        for key, value in message.items():
            if value is None or key in (*READ_KEYS, *UNUSED_KEYS):
                continue
            if key not in EMPTY_KEYS:
                raise _unknown(where, key, (*READ_KEYS, *UNUSED_KEYS, *EMPTY_KEYS))
            if value not in ([], {}, ""):
                at = f"{where}.{key}"
                raise wrong(at, value, f"{EMPTY_KEYS[key]}, and what it says would be lost; leave it out")

    def _check_name(self, where: str, role: str, name: object) -> None:
        if name is not None and self._names.setdefault(role, name) != name:
            raise wrong(
                f"{where}.name", name,
                f"another {role} is {reprlib.repr(self._names[role])}, and the model cannot tell them "
                "apart; write the names into the texts",
            )  # fmt: skip

    def _read_images(self, where: str, role: str, images: object) -> str:
        """Images as Ollama's clients send them: a list of base64 texts, seen in front of the text."""
        if images in (None, []):
            return ""
        if self._take_image is None:
            raise wrong(where, images, "expected the images beside 'messages', and a tag where each stands")
        if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
            raise wrong(where, images, "expected a list of images as base64 texts")
        for index, image in enumerate(images):
            url = image if image[:5].lower() == "data:" or "://" in image[:10] else f"data:;base64,{image}"
            self._show(f"{where}[{index}]", role, url)
        return self._tag * len(images)

    def _read_content(self, where: str, role: str, content: object) -> str:
        if isinstance(content, str):
            return self._plain(where, role, content)
        if role == "assistant" and content in (None, []):
            return ""
        if not isinstance(content, list) or not content:
            raise wrong(where, content, "expected a text or a list of content parts")
        text = ""
        for index, part in enumerate(content):
            piece = self._read_part(f"{where}[{index}]", role, part)
            text = text + piece if piece == self._tag else _after(text, piece, self._tag)
        return text

    def _read_part(self, where: str, role: str, part: object) -> str:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(kind, str) or kind not in PART_KINDS:
            close = nearest(kind, PART_KINDS, 1) if isinstance(kind, str) else []
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise wrong(where, part, f"expected a part of type 'text' or 'image_url'{hint}")
        _check_part_keys(where, part, ("type", kind, *UNUSED_PART_KEYS))
        if kind != "image_url":
            return self._plain(f"{where}.{kind}", role, part.get(kind))
        if self._take_image is None:
            raise wrong(
                where, part, f"expected {self._tag!r} in a text here, and the image beside 'messages'"
            )
        self._show(where, role, _read_url(f"{where}.image_url", part.get(kind)))
        return self._tag

    def _show(self, where: str, role: str, url: str) -> None:
        if role != "user":
            raise MessageError(where, f"{where} is an image; only the user's messages may have any")
        assert self._take_image is not None
        self._take_image(where, url)

    def _plain(self, where: str, role: str, text: object) -> str:
        """A text that is one; a tag where no image belongs would be an image that is not there."""
        if not isinstance(text, str):
            raise wrong(where, text, "expected a text")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise wrong(where, text, "expected text that has a UTF-8 form") from None
        tags = [tag for tag in IMAGE_TAGS if tag in text] if self._tag == IMAGE_MARK else []
        # What the assistant or the system wrote is no attempt to show something.
        if tags and role == "user":
            raise MessageError(
                where,
                f"{where} holds the image tag {tags[0]!r}, with which no image comes; send images as "
                "parts of type 'image_url', or write the tag in another way",
            )
        return text


def _read_url(where: str, value: object) -> str:
    url = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(url, str) or not url:
        raise wrong(where, value, "expected an object with 'url'")
    if isinstance(value, Mapping):
        _check_part_keys(where, value, URL_KEYS)
        if value.get("detail") not in (None, *DETAILS):
            raise wrong(f"{where}.detail", value["detail"], f"expected one of {', '.join(DETAILS)}")
    return url


def _check_part_keys(where: str, part: Mapping[str, Any], known: Sequence[str]) -> None:
    for key, value in part.items():
        if value is not None and key not in known:
            raise _unknown(where, key, known)


def _unknown(where: str, key: object, known: Sequence[str]) -> MessageError:
    key = str(key)[:60]
    close = nearest(key, known)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"known are {', '.join(known)}"
    message = f"{where} has the unknown key {key!r}, and what it says would be lost; {hint}"
    return MessageError(f"{where}.{key}", message, "unknown_parameter")
