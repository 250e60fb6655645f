"""A batch: rows of packed samples and the images that stand in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from owl2_jax.core.axes import IGNORE_LABEL


@dataclass(frozen=True)
class Sample:
    """One encoded example.

    Attributes:
      tokens: int32[n], 0 at the positions of an image.
      labels: int32[n], -100 where nothing is learnt.
      image_starts: int32[k], the first position of each image.
      images: k images, uint8[H, W, 3].
      dataset: number of the set in the mixture.
      targets: positions a loss looks at.
    """

    tokens: np.ndarray
    labels: np.ndarray
    image_starts: np.ndarray
    images: tuple[np.ndarray, ...]
    dataset: int
    targets: int

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Batch:
    """Arrays of one training step, made of equal parts that follow each other.

    Row b's images lie in the part of `images` that belongs to b's part of
    the rows, for every number of parts that divides the shards of the pipeline.

    Attributes:
      tokens: int32[B, T], 0 at images and padding.
      positions: int32[B, T], restarting in every segment.
      segment_ids: int32[B, T], 0 for padding, 1, 2, ... for the row's samples.
      labels: int32[B, T], aligned with `tokens`, -100 where nothing is learnt.
      dataset_ids: int32[B, T], number of the token's set; -1 for padding.
      images: uint8[M, H, W, 3], zeros after the last image of a part.
      image_index: int32[B, I], which image stands in a place; -1 for none.
      image_starts: int32[B, I], its first position.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segment_ids: np.ndarray
    labels: np.ndarray
    dataset_ids: np.ndarray
    images: np.ndarray
    image_index: np.ndarray
    image_starts: np.ndarray

    @property
    def num_tokens(self) -> int:
        """Positions that are no padding."""
        return int((self.segment_ids > 0).sum())

    @property
    def num_samples(self) -> int:
        """Samples of all rows."""
        return int(self.segment_ids.max(axis=1, initial=0).sum())

    @property
    def num_images(self) -> int:
        """Image places that are taken."""
        return int((self.image_index >= 0).sum())

    def samples_by_set(self, count: int) -> np.ndarray:
        """int64[count], samples of each of the mixture's `count` sets."""
        first = (self.segment_ids > 0) & (self.positions == 0)
        return np.bincount(self.dataset_ids[first], minlength=count)

    @property
    def efficiency(self) -> float:
        """Share of positions that are no padding."""
        return self.num_tokens / self.segment_ids.size


def build_batch(
    rows: Sequence[Sequence[Sample]], length: int, images_per_row: int, num_images: int, image_size: int
) -> Batch:
    """Lays samples out in rows.

    Args:
      rows: samples of each row; their lengths sum to at most `length`, their
        images to at most `images_per_row`.
      length: T.
      images_per_row: I.
      num_images: M, at least the images of all rows.
      image_size: pixels of an image's side.
    """
    shape = len(rows), length
    tokens, positions, segments = (np.zeros(shape, np.int32) for _ in range(3))
    labels = np.full(shape, IGNORE_LABEL, np.int32)
    datasets = np.full(shape, -1, np.int32)
    images = np.empty((num_images, image_size, image_size, 3), np.uint8)
    index = np.full((len(rows), images_per_row), -1, np.int32)
    starts = np.zeros((len(rows), images_per_row), np.int32)
    used = 0
    for b, row in enumerate(rows):
        if not row:
            continue
        lengths = np.array([len(sample) for sample in row])
        end = int(lengths.sum())
        offsets = np.cumsum(lengths) - lengths
        tokens[b, :end] = np.concatenate([sample.tokens for sample in row])
        labels[b, :end] = np.concatenate([sample.labels for sample in row])
        positions[b, :end] = np.arange(end) - np.repeat(offsets, lengths)
        segments[b, :end] = np.repeat(np.arange(1, len(row) + 1), lengths)
        datasets[b, :end] = np.repeat([sample.dataset for sample in row], lengths)
        row_images = [image for sample in row for image in sample.images]
        count = len(row_images)
        if count:
            starts[b, :count] = np.concatenate(
                [sample.image_starts + offset for sample, offset in zip(row, offsets, strict=True)]
            )
            index[b, :count] = np.arange(used, used + count)
            np.stack(row_images, out=images[used : used + count])
        used += count
    images[used:] = 0  # the rest alone: batches of large images are mostly full
    return Batch(tokens, positions, segments, labels, datasets, images, index, starts)


def concatenate(parts: Sequence[Batch]) -> Batch:
    """Puts the parts of a batch one after the other; images keep to their part."""
    if len(parts) == 1:
        return parts[0]
    moved, first = [], 0
    for part in parts:
        index = np.where(part.image_index < 0, -1, part.image_index + first).astype(np.int32)
        moved.append(dataclasses.replace(part, image_index=index))
        first += len(part.images)
    names = [field.name for field in dataclasses.fields(Batch)]
    return Batch(**{name: np.concatenate([getattr(part, name) for part in moved]) for name in names})
