"""Examples to samples: text to ids and labels, pictures to squares, or the reason why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data import conversation, images
from owl2_jax.data.batch import Sample
from owl2_jax.data.sources.base import Example, Source
from owl2_jax.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Rejected:
    """A record that became no sample; it is counted and written down, never replaced.

    Attributes:
      dataset: number of the set in the mixture.
      record: where it is: "<source index>" or the example's id.
      reason: short key that rejects are counted by.
      detail: what was found.
    """

    dataset: int
    record: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Encoder:
    """Turns the examples of one set into samples.

    Attributes:
      dataset: number of the set in the mixture.
      max_length, max_images, max_targets: what a row can hold (0 targets: any).
    """

    dataset: int
    tokenizer: Tokenizer
    template: str
    image_tag: str
    image_mode: str
    image_size: int
    tokens_per_image: int
    max_length: int
    max_images: int
    max_targets: int = 0

    def __call__(self, example: Example) -> Sample | Rejected:
        """Encodes; what a user's data did wrong comes back as `Rejected`."""
        try:
            return self._encode(example)
        except Owl2Error as error:
            reason = getattr(error, "reason", "invalid")
            return Rejected(self.dataset, str(example.get("id", "?")), reason, str(error))

    def _encode(self, example: Example) -> Sample | Rejected:
        pictures = example["images"]
        encoded = conversation.encode_dialogue(
            example["messages"], self.template, self.tokenizer, self.image_tag, len(pictures)
        )
        expanded = conversation.expand(encoded.ids, encoded.labels, self.tokens_per_image)
        cut = conversation.truncate(expanded, self.max_length, self.tokens_per_image)
        sample = cut.sample
        problem = self._problem(sample, cut.dropped_images)
        if problem is not None:
            return Rejected(self.dataset, str(example["id"]), *problem)
        kept = pictures[: len(sample.image_starts)]
        return Sample(
            tokens=sample.tokens,
            labels=sample.labels,
            image_starts=sample.image_starts,
            images=self._pictures(kept),
            dataset=self.dataset,
            targets=sample.num_supervised,
        )

    def _problem(self, sample: conversation.Expanded, dropped_images: int) -> tuple[str, str] | None:
        """(reason, detail) why a sample cannot be used."""
        if sample.num_supervised == 0:
            return "no_target", "no supervised token is left; is the answer empty, or behind the row's end?"
        if dropped_images:
            return "truncated", f"{dropped_images} pictures lie behind the {self.max_length}th position"
        if len(sample.image_starts) > self.max_images:
            return (
                "too_many_images",
                f"{len(sample.image_starts)} pictures, a row has {self.max_images} slots",
            )
        if self.max_targets and sample.num_supervised > self.max_targets:
            return (
                "too_many_targets",
                f"{sample.num_supervised} supervised tokens, data.max_targets is {self.max_targets}",
            )
        return None

    def _pictures(self, pictures: list[Any]) -> np.ndarray:
        size = self.image_size
        if not pictures:
            return np.zeros((0, size, size, 3), np.uint8)
        return np.stack([images.load(picture, self.image_mode, size) for picture in pictures])


class EncodedSource:
    """A source of samples over a source of examples; optionally remembers what it encoded."""

    def __init__(self, source: Source, encoder: Encoder, cache: bool) -> None:
        self._source, self._encoder = source, encoder
        self._cache: dict[int, Sample | Rejected] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self._source)

    def __repr__(self) -> str:
        """Stable text; Grain compares it when it restores an iterator."""
        return f"EncodedSource({self._source.description()})"

    def __getitem__(self, index: int) -> Sample | Rejected:
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        try:
            sample = self._encoder(self._source[index])
        except Owl2Error as error:  # the record itself cannot be read
            reason = getattr(error, "reason", "invalid")
            sample = Rejected(self._encoder.dataset, str(index), reason, str(error))
        if self._cache is not None:
            self._cache[index] = sample
        return sample
