"""What every source of examples offers, and the error for a record that is no example.

An example is a dictionary:

    id        str, unique in the source
    dataset   str, the short name that counts and weights go by
    messages  [{"role": "user" | "assistant", "content": str with image tags}, ...]
    images    [bytes | str path | video.Frame, ...], as many as there are image tags

and, where the data has them, `kind` (what sort of question), `question`,
`answer`, `answers` (several annotators') and `image_keys` (a name per
image; equal names mean equal images, so that decoded ones can be cached).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.prompt_format import IMAGE_TAG
from owl2_jax.data.messages import IMAGE_TAGS
from owl2_jax.data.prompts import PROMPTS

Example = dict[str, Any]

DEFAULT_IMAGE_TAG = IMAGE_TAGS[0]


class RecordError(Owl2Error):
    """One record cannot become an example.

    Attributes:
      source: Name of the source.
      index: Position of the record in it.
      reason: a key of `data.reasons.REASONS`.
      detail: What was found and what was expected.
    """

    def __init__(self, source: str, index: int, reason: str, detail: str):
        super().__init__(f"{source}[{index}]: {reason}: {detail}")
        self.source, self.index, self.reason, self.detail = source, index, reason, detail

    def __reduce__(self):
        # Worker processes send errors by pickle, which would call with the message alone.
        return type(self), (self.source, self.index, self.reason, self.detail)


@runtime_checkable
class Source(Protocol):
    """A finite, randomly accessible list of examples."""

    def __len__(self) -> int:
        """Number of records, known without reading them."""

    @property
    def files(self) -> list[str]:
        """The files that hold the records, so that a run can tell others of the same name; no images."""

    def __getitem__(self, index: int) -> Example:
        """The example at `index`; raises `RecordError` where the record is bad."""

    def description(self) -> str:
        """One line for logs: kind, files and settings."""


def checked_index(index: int, length: int, name: str) -> int:
    """Returns `index` as a number from 0 to `length` - 1; negative ones count from the end.

    Raises:
      IndexError: It is outside; iteration over a source ends by this.
    """
    position = index + length if index < 0 else index
    if not 0 <= position < length:
        raise IndexError(f"{name} has {length} records, no number {index}")
    return position


@dataclass(frozen=True)
class Style:
    """How the records of a source are worded.

    Attributes:
      dataset: The short name that counts and weights go by.
      prompt: Text around a question, with `{question}` in it; the whole
        request where the records are captions. Or the name of a published
        prompt in `data.prompts`, such as "vqa" or "caption".
      image_tag: The tag that marks images in the messages.

    Raises:
      UnknownNameError: `image_tag` is none of `IMAGE_TAGS`.
    """

    dataset: str
    prompt: str = "{question}"
    image_tag: str = DEFAULT_IMAGE_TAG

    def __post_init__(self):
        if self.image_tag not in IMAGE_TAGS:
            raise unknown_name("image tag", self.image_tag, IMAGE_TAGS)
        if self.prompt in PROMPTS:
            object.__setattr__(self, "prompt", _published(self.prompt))

    def require_question(self) -> None:
        """Raises Owl2Error if a question would have no place in the prompt."""
        if "{question}" not in self.prompt:
            raise Owl2Error(
                f"the prompt {self.prompt!r} of {self.dataset} has no {{question}} in it; "
                "write where the question belongs"
            )

    def example(
        self,
        identity: str,
        question: str,
        answer: str | None,
        images: Sequence[bytes | str] = (),
        **extra: Any,
    ) -> Example:
        """Builds an example of one turn; without an `answer` it ends with the question."""
        example = {
            "id": identity,
            "dataset": self.dataset,
            "messages": self.turn(question, answer, self.image_tag * len(images)),
            "images": list(images),
            "question": question,
            **extra,
        }
        if answer is not None:
            example["answer"] = answer
        return example

    def turn(self, question: str, answer: str | None, tags: str = "") -> list[dict[str, str]]:
        """The messages of one turn, with the tags of its images in front; without an `answer` it has one."""
        said = [{"role": "user", "content": tags + self.prompt.replace("{question}", question)}]
        return said if answer is None else [*said, {"role": "assistant", "content": answer}]


def clean_caption(text: str) -> str:
    """A caption without the blanks around it, and without a byte-order mark from the file it came from."""
    return text.strip().removeprefix("\ufeff").strip()


def _published(name: str) -> str:
    """What the user says in a published prompt; the tags of images go in front by themselves."""
    prompt = PROMPTS[name]
    if set(prompt.fields) - {"question"}:
        raise Owl2Error(
            f"the prompt {name!r} has the fields {', '.join(prompt.fields)}; records of a source have a "
            "question at most: choose another, or write the prompt out with {question} in it"
        )
    return prompt.body.removeprefix(IMAGE_TAG)
