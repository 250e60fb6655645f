"""Dialogues to token ids and labels, and placeholders to model positions.

A template (`templates.py`) renders a dialogue (`messages.py`) as spans of text,
each with the word whether the model learns it. Ids and labels are made from the
same span in the same moment, so that the two can never disagree.

Text is split at the image tag and every part is encoded by itself. `<s>` comes
once, in front; where an image comes first (`plain`), `<s>` stands at the start
of each later part instead. Both are what the released checkpoint was trained on.

`<s>`, `</s>` and `<unk>` in what people wrote are text like any other, unless
`control_tokens` is set; then they become those ids, as in the released code.

Expansion then gives every image its positions in the decoder's sequence, and
truncation shortens that sequence without ever cutting an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from owl2_jax.core.axes import IGNORE_LABEL, IMAGE_TOKEN
from owl2_jax.core.prompt_format import IMAGE_TAG, PromptFormat
from owl2_jax.data.messages import (
    IMAGE_TAGS,
    ConversationError,
    ImageCountError,
    ImageTagError,
    Message,
    check_messages,
    from_llava,
)
from owl2_jax.data.templates import TEMPLATES, Template, get_template, render, spans
from owl2_jax.data.tokenizer import Tokenizer

__all__ = [
    "IMAGE_TAGS",
    "TEMPLATES",
    "ConversationError",
    "Encoded",
    "Expanded",
    "ImageCountError",
    "ImageTagError",
    "Message",
    "Template",
    "Truncated",
    "check_messages",
    "count_supervised",
    "encode_dialogue",
    "encode_prompt",
    "encode_text",
    "expand",
    "from_llava",
    "get_template",
    "render",
    "truncate",
]


@dataclass(frozen=True)
class Encoded:
    """A dialogue as ids; an image is one placeholder.

    Attributes:
      ids: int32[n], `IMAGE_TOKEN` where an image stands.
      labels: int32[n], the id where it is learnt and `IGNORE_LABEL` elsewhere.
      empty_answers: answers of no characters at all; they teach nothing.
    """

    ids: np.ndarray
    labels: np.ndarray
    empty_answers: int = 0

    @property
    def num_images(self) -> int:
        """Images that its ids name."""
        return int((self.ids == IMAGE_TOKEN).sum())

    @property
    def num_supervised(self) -> int:
        """Tokens that are learnt."""
        return count_supervised(self.labels)


@dataclass(frozen=True)
class Expanded:
    """A sample as the decoder sees it: Q + 1 positions per image.

    Attributes:
      tokens: int32[T], 0 at the positions of an image.
      labels: int32[T], aligned with `tokens`, `IGNORE_LABEL` at images.
      image_starts: int32[I], the first position of each image.
    """

    tokens: np.ndarray
    labels: np.ndarray
    image_starts: np.ndarray

    @property
    def num_supervised(self) -> int:
        """Tokens that are learnt."""
        return count_supervised(self.labels)


@dataclass(frozen=True)
class Truncated:
    """A sample cut to a length, and what the cut took away.

    Attributes:
      sample: the rest; its images are the first `len(sample.image_starts)`.
      dropped_tokens: positions cut off, those of images included.
      dropped_images: images cut off.
      dropped_supervised: learnt positions cut off.
    """

    sample: Expanded
    dropped_tokens: int = 0
    dropped_images: int = 0
    dropped_supervised: int = 0


def count_supervised(labels: np.ndarray) -> int:
    """Counts the targets of `int32[n]` labels; 0 means that nothing can be learnt.

    The first position has nothing before it to be predicted from.
    """
    return int((labels[1:] != IGNORE_LABEL).sum())


def encode_dialogue(
    messages: Sequence[Message],
    prompt_format: PromptFormat,
    tokenizer: Tokenizer,
    num_images: int | None = None,
    *,
    control_tokens: bool = False,
    assistant_first: bool = False,
) -> Encoded:
    """Encodes a dialogue with its answers, for training.

    Everything after `ASSISTANT:` is learnt, the word-boundary piece and the
    closing `</s>` included. An empty answer is rendered as the released code
    does, as a turn still open, and nothing of it is learnt; the same holds for a
    last question without an answer.

    `num_images` is the number of images that belong to the dialogue; None
    leaves it unchecked. `control_tokens` lets `<s>`, `</s>` and `<unk>` in the
    messages become their ids, as in the released training. `assistant_first` lets
    the assistant have the first turn, as in a prompt; no training has that.

    Raises: what `check_messages` and `spans` raise.
    """
    check_messages(messages, prompt_format.image_tag, num_images, assistant_first)
    builder = _Builder(tokenizer, prompt_format.image_tag, control_tokens)
    for text, learnt, closes in spans(messages, prompt_format):
        builder.add(text, learnt)
        if closes:
            builder.close_turn(learnt)
    empty = sum(m["role"] == "assistant" and not m["content"] for m in messages)
    return builder.encoded(empty)


def encode_prompt(
    messages: Sequence[Message],
    prompt_format: PromptFormat,
    tokenizer: Tokenizer,
    num_images: int | None = None,
    trailing_space: bool = False,
    *,
    control_tokens: bool = False,
) -> Encoded:
    """Encodes a dialogue whose last turn is the user's, for the model to answer.

    The assistant may have the first turn (`ASSISTANT: Hello.</s>USER: ...`).
    The ids are those `encode_dialogue` puts in front of the answer; no position
    is learnt. With `trailing_space` the prompt ends in `ASSISTANT: `, a lone
    word-boundary piece, as the published evaluations write it. `control_tokens`
    is as for `encode_dialogue`; it does not belong where others write.

    Raises: as `encode_dialogue`, and ConversationError when the assistant has
      the last turn.
    """
    template = get_template(prompt_format.template)
    check_messages(messages, prompt_format.image_tag, num_images, assistant_first=True)
    if messages[-1]["role"] != "user":
        raise ConversationError("the last message is the assistant's, expected the user's; add a question")
    builder = _Builder(tokenizer, prompt_format.image_tag, control_tokens)
    for text, _, closes in spans(messages, prompt_format, trailing_space):
        builder.add(text, learnt=False)
        if closes:
            builder.close_turn(learnt=False)
    if template.caption:
        builder.open_caption()
    return builder.encoded()


def encode_text(
    text: str, tokenizer: Tokenizer, image_tag: str = IMAGE_TAG, *, control_tokens: bool = False
) -> np.ndarray:
    """Returns the ids int32[n] of a finished prompt string with image tags in it.

    With `control_tokens`, as in the released evaluation, `</s>` closes a turn;
    otherwise it is text.
    """
    builder = _Builder(tokenizer, image_tag, control_tokens)
    builder.add(text, learnt=False)
    return builder.encoded().ids


def expand(ids: np.ndarray, labels: np.ndarray, tokens_per_image: int) -> Expanded:
    """Gives each placeholder in `ids` its Q + 1 positions.

    Args:
      ids: int32[n] with `IMAGE_TOKEN` for images.
      labels: int32[n].
      tokens_per_image: Q + 1, queries and end token.
    """
    is_image = ids == IMAGE_TOKEN
    widths = np.where(is_image, tokens_per_image, 1)
    starts = np.cumsum(widths) - widths
    return Expanded(
        tokens=np.repeat(np.where(is_image, 0, ids), widths).astype(np.int32),
        labels=np.repeat(np.where(is_image, IGNORE_LABEL, labels), widths).astype(np.int32),
        image_starts=starts[is_image].astype(np.int32),
    )


def truncate(sample: Expanded, max_length: int, tokens_per_image: int) -> Truncated:
    """Cuts a sample to at most `max_length` positions, from the end.

    An image that does not fit whole goes as a whole, and so does everything
    after it; the ones in front stay in their places.
    """
    length, starts = len(sample.tokens), sample.image_starts
    if length <= max_length:
        return Truncated(sample)
    unfit = starts[starts + tokens_per_image > max_length]
    cut = min([max_length, *unfit.tolist()])
    kept = Expanded(sample.tokens[:cut], sample.labels[:cut], starts[starts < cut])
    return Truncated(
        kept,
        dropped_tokens=length - cut,
        dropped_images=len(starts) - len(kept.image_starts),
        dropped_supervised=sample.num_supervised - kept.num_supervised,
    )


class _Builder:
    """Grows ids and labels together from spans of text with image tags in it."""

    def __init__(self, tokenizer: Tokenizer, image_tag: str, control_tokens: bool):
        self.image_tag = image_tag
        self.grown = tokenizer.dialogue(control_tokens)
        self.close_turn, self.open_caption = self.grown.close_turn, self.grown.open_caption

    def add(self, text: str, learnt: bool) -> None:
        for index, part in enumerate(text.split(self.image_tag)):
            if index:
                self.grown.image()
            if part:
                self.grown.text(part, learnt)

    def encoded(self, empty_answers: int = 0) -> Encoded:
        self.grown.finish()
        ids, labels = (np.array(values, np.int32) for values in (self.grown.ids, self.grown.labels))
        return Encoded(ids, labels, empty_answers)
