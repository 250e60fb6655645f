"""How the released training code reads a record, where that is not as it is written.

The recipes that follow the released scripts choose `data.reading = "released"`:

* A tag moves to the front of its turn, whichever turn that is; a line break
  follows, and white space around the rest goes. Turns without a tag keep theirs.

      "What is this?\\n<|image|>"    becomes    "<|image|>\\nWhat is this?"

* Several tags in one turn become one. The record has one image; two tags of
  it in two turns would show the next sample's image, so that is refused, and
  so is a record of several images, which that code cannot open.
* An image without a tag is refused: that code learns the text alone and shows
  no image, which is hardly what the record means.
* `<s>`, `</s>` and `<unk>` in a text become those ids.
* Where a text holds ` ASSISTANT: ` or `</s>`, that code takes it for the border of a
  turn, finds that the lengths do not match and learns nothing of the record. Here
  the answers are learnt, with the same ids.

With "as_written", the default, every image stays where its tag is, nothing is
stripped, and these are text like any other. `owl2 data check` counts what the
choice makes of a set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from owl2_jax.core.errors import unknown_name
from owl2_jax.data.messages import ConversationError, Message

EOS = "</s>"
Reading = Literal["as_written", "released"]
READINGS: tuple[Reading, ...] = get_args(Reading)


def require_reading(reading: str) -> str:
    """Returns the name of a reading. Raises UnknownNameError for any other name."""
    if reading not in READINGS:
        raise unknown_name("reading of records", reading, READINGS)
    return reading


class ReleasedImageError(ConversationError):
    """Tags and images that the released code does not show as they are written."""

    reason = "not_in_released"


def released_messages(messages: Sequence[Message], image_tag: str, num_images: int) -> list[dict[str, str]]:
    """Messages as the released training code reads them.

    Raises:
      ReleasedImageError: several images, one without a tag, or one with tags in several turns.
    """
    turns = [index for index, message in enumerate(messages) if image_tag in message["content"]]
    if num_images > 1:
        raise ReleasedImageError(
            f"{num_images} images; the released code takes one a record: split the record, or set "
            "data.reading=as_written"
        )
    if num_images and not turns:
        raise ReleasedImageError(
            f"the image has no tag; the released code would learn the text without it: write {image_tag} "
            "where it belongs, or leave the image out"
        )
    if len(turns) > 1:
        raise ReleasedImageError(
            f"messages {', '.join(map(str, turns))} have a tag {image_tag} for one image; the released "
            "code would show another sample's: keep one"
        )
    if not num_images:
        return [dict(message) for message in messages]
    return [{**message, "content": _tag_in_front(message["content"], image_tag)} for message in messages]


def loses_its_loss(messages: Sequence[Message]) -> bool:
    """Says whether the released code would learn nothing of a record, for words that look like borders."""
    return any(" ASSISTANT: " in f" {one['content']} " or EOS in one["content"] for one in messages)


def _tag_in_front(content: str, image_tag: str) -> str:
    if image_tag not in content:
        return content
    return f"{image_tag}\n{content.replace(image_tag, '').strip()}".strip()
