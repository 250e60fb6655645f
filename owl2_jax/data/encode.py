"""Examples to samples: text to ids and labels, images to squares, or the reason why not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from owl2_jax.core.buckets import StoreError
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data import augment, conversation, images, video
from owl2_jax.data.batch import Sample
from owl2_jax.data.config import DataConfig
from owl2_jax.data.mixture import Address
from owl2_jax.data.sources.base import Example, Source
from owl2_jax.data.tokenizer import Tokenizer
from owl2_jax.data.video import Frame


class SampleError(Owl2Error):
    """A sample that no row can hold or nothing can be learnt from. `reason` is a key of `REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Rejected:
    """A record that became no sample; it is counted and written down, never replaced.

    Attributes:
      dataset: name of the set in the mixture.
      record: number of the record in its source.
      id: the example's id; None when the record could not be read.
      reason: key of `REASONS`.
      detail: what was found.
      used: the record is used all the same, cut to the length of a row.
      epoch: how often the set had been read through before.
    """

    dataset: str
    record: int
    id: str | None
    reason: str
    detail: str
    used: bool = False
    epoch: int = 0


@dataclass(frozen=True)
class ImageRef:
    """An image still to be decoded: its bytes or path, a key if it may be remembered, a name for errors."""

    source: bytes | str | Frame
    key: str | None
    name: str


T = TypeVar("T")


@dataclass(frozen=True)
class Draft:
    """A sample without its images, and where to get them.

    Attributes:
      id: the example's id.
      cut: what was cut off the end, in words; empty when nothing was.
    """

    id: str
    sample: Sample
    images: tuple[ImageRef, ...]
    cut: str = ""


class Encoder:
    """Turns the examples of one set into samples.

    Args:
      config: settings of the pipeline.
      dataset: number of the set in the mixture.
      tokenizer: of the model that is trained.
      image_size: pixels of an image's side.
      tokens_per_image: Q + 1.
      image_cache: {key: decoded image}, shared by the sets; None remembers none.
    """

    def __init__(
        self,
        config: DataConfig,
        dataset: int,
        tokenizer: Tokenizer,
        image_size: int,
        tokens_per_image: int,
        image_cache: dict[str, Any] | None = None,
    ) -> None:
        self._config, self._dataset, self._tokenizer = config, dataset, tokenizer
        self._image_size, self._tokens_per_image = image_size, tokens_per_image
        self._image_cache = image_cache

    def draft(self, example: Example) -> Draft:
        """Encodes the text. Raises `Owl2Error`, with a `reason`, for what a row cannot hold."""
        config, sources = self._config, example["images"]
        encoded = conversation.encode_dialogue(
            example["messages"],
            config.prompt_format,
            self._tokenizer,
            len(sources),
            control_tokens=config.reading == "released",
        )
        whole = conversation.expand(encoded.ids, encoded.labels, self._tokens_per_image)
        cut = conversation.truncate(whole, config.row_length, self._tokens_per_image)
        sample, detail = cut.sample, ""
        if cut.dropped_tokens:
            detail = (
                f"{len(whole.tokens)} positions, a row has {config.row_length}: {cut.dropped_supervised} "
                f"supervised tokens and {cut.dropped_images} images lie after its end"
            )
            if config.long_samples == "reject":
                raise SampleError("truncated", detail)
        self._check(sample)
        keys = example.get("image_keys") or [None] * len(sources)
        refs = [
            ImageRef(source, key, _name(source, number, example["id"]))
            for number, (source, key) in enumerate(zip(sources, keys, strict=True), start=1)
        ]
        drafted = Sample(
            tokens=sample.tokens,
            labels=sample.labels,
            image_starts=sample.image_starts,
            images=(),
            dataset=self._dataset,
            targets=sample.num_supervised,
        )
        return Draft(str(example["id"]), drafted, tuple(refs[: len(sample.image_starts)]), detail)

    def sample(self, draft: Draft, rng: np.random.Generator | None) -> Sample:
        """Adds the images. Raises `ImageError`.

        Args:
          rng: the record's own, where the config asks for augmentation.
        """
        return dataclasses.replace(
            draft.sample, images=tuple(self._image(image, rng) for image in draft.images)
        )

    def _check(self, sample: conversation.Expanded) -> None:
        config, targets = self._config, sample.num_supervised
        if targets == 0:
            raise SampleError(
                "no_target", "no supervised token is left; is the answer empty, or after the row's end?"
            )
        if len(sample.image_starts) > config.images_per_sample:
            raise SampleError(
                "too_many_images",
                f"{len(sample.image_starts)} images, expected at most {config.images_per_sample}; "
                "raise data.images_per_row or data.images",
            )
        if config.max_targets and targets > config.max_targets:
            raise SampleError(
                "too_many_targets",
                f"{targets} supervised tokens, expected at most data.max_targets {config.max_targets}",
            )

    def _image(self, ref: ImageRef, rng: np.random.Generator | None) -> np.ndarray:
        if rng is None:
            return self._remembered(ref, self._fit)
        assert self._config.augment is not None
        return augment.augment(
            self._remembered(ref, self._decode), self._image_size, rng, self._config.augment
        )

    def _remembered(self, ref: ImageRef, load: Callable[[ImageRef], T]) -> T:
        if self._image_cache is None or ref.key is None:
            return load(ref)
        if ref.key not in self._image_cache:
            self._image_cache[ref.key] = load(ref)
        return self._image_cache[ref.key]

    def _fit(self, ref: ImageRef) -> np.ndarray:
        config = self._config
        image = self._decode(ref)
        return images.fit(image, config.image_mode, self._image_size, ref.name, config.max_pixels)

    def _decode(self, ref: ImageRef) -> Image.Image:
        if isinstance(ref.source, Frame):
            return video.decode_frame(ref.source, self._config.max_pixels, "data.max_pixels")
        return images.decode(ref.source, ref.name, self._config.max_pixels, "data.max_pixels")


def _name(source: bytes | str | Frame, number: int, example: str) -> str:
    """What errors call an image: its path if it has one."""
    if isinstance(source, Frame):
        return source.name
    return f"{number} of {example}" if isinstance(source, bytes) else str(source)


class EncodedSet:
    """The samples of one set, by record and epoch.

    Args:
      name: name of the set, for rejects.
      number: its number in the mixture.
      cache: {record: what was encoded}, to be kept; with augmentation, all but
        the images. None keeps nothing.
      seed: of augmentation; None when there is none.
    """

    def __init__(
        self,
        name: str,
        number: int,
        source: Source,
        encoder: Encoder,
        cache: dict[int, Any] | None,
        seed: int | None,
    ) -> None:
        self.name, self.source = name, source
        self._number, self._encoder, self._seed = number, encoder, seed
        self._kept = cache

    def get(self, record: int, epoch: int) -> tuple[Sample | None, Rejected | None]:
        """The sample of a record, and the note on it if it was cut; or no sample and why."""
        kept = None if self._kept is None else self._kept.get(record)
        if kept is None:
            kept = self._encode(record)
            if self._kept is not None:
                self._kept[record] = kept
        if not isinstance(kept, Draft):
            return kept
        return self._finish(kept, record, np.random.default_rng([self._seed, self._number, record, epoch]))

    def _encode(self, record: int) -> Draft | tuple[Sample | None, Rejected | None]:
        """A draft where augmentation makes the images again in each epoch."""
        identity = None
        try:
            example = self.source[record]
            identity = str(example["id"])
            draft = self._encoder.draft(example)
        except StoreError:
            raise
        except Owl2Error as error:
            return None, self._rejected(error, record, identity)
        return draft if self._seed is not None and draft.images else self._finish(draft, record, None)

    def _finish(
        self, draft: Draft, record: int, rng: np.random.Generator | None
    ) -> tuple[Sample | None, Rejected | None]:
        try:
            sample = self._encoder.sample(draft, rng)
        except StoreError:
            raise
        except Owl2Error as error:
            return None, self._rejected(error, record, draft.id)
        if not draft.cut:
            return sample, None
        return sample, Rejected(self.name, record, draft.id, "truncated", draft.cut, used=True)

    def _rejected(self, error: Owl2Error, record: int, identity: str | None) -> Rejected:
        return Rejected(self.name, record, identity, getattr(error, "reason", "invalid"), str(error))


class EncodedMixture:
    """From an address of a mixture to its sample; see `EncodedSet.get`."""

    def __init__(self, sets: Sequence[EncodedSet]) -> None:
        self.sets = sets

    def __call__(self, address: Address) -> tuple[Sample | None, Rejected | None]:
        """(the sample, why the record or a part of it is not used), either of them None."""
        sample, note = self.sets[address.dataset].get(address.record, address.epoch)
        return sample, note and dataclasses.replace(note, epoch=address.epoch)
