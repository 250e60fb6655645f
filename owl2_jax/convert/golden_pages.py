"""Cases of a golden file over pages: the rows' prompts as one flat batch, then a token of each at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np

from owl2_jax.model.config import Owl2Config
from owl2_jax.model.pages import PagedBatch, Pages, empty_pages

PAGE_SIZE: Final = 16
Step = tuple[np.ndarray, np.ndarray, PagedBatch]


class PagedRows:
    """B rows of which each has pages of its own, one after the other.

    Attributes:
      lengths: int32[B], tokens of each row; those without any come last.
    """

    def __init__(self, segment_ids: np.ndarray, room: int) -> None:
        """`segment_ids` int32[B, T], 0 for padding at the right; `room` for so many tokens behind."""
        self.lengths = (segment_ids > 0).sum(1).astype(np.int32)
        self._length = segment_ids.shape[1]
        self._prompts = self.lengths
        each = -(-(self._length + room) // PAGE_SIZE)
        self._tables = np.arange(self.lengths.size * each, dtype=np.int32).reshape(-1, each)

    def empty_pages(self, config: Owl2Config) -> Pages:
        """Pages for all tokens."""
        return empty_pages(config, self._tables.size, PAGE_SIZE)

    def prompts(
        self, tokens: np.ndarray, image_index: np.ndarray, image_starts: np.ndarray, span: int
    ) -> Step:
        """The prompts, int32[B, T], as arguments of `Owl2.step`: tokens, rows of features, batch.

        Args:
          image_index, image_starts: int32[B, I], as `Owl2` takes them.
          span: positions of an image.
        """
        features = np.full(tokens.shape, -1, np.int32)
        for row, images, starts in zip(features, image_index, image_starts, strict=True):
            for image, start in zip(images, starts, strict=True):
                if image >= 0:
                    row[start : start + span] = np.arange(image * span, (image + 1) * span)
        parts = [(row, 0, length) for row, length in enumerate(self.lengths)]
        flat = np.concatenate([tokens[row, :end] for row, _, end in parts])
        of_features = np.concatenate([features[row, :end] for row, _, end in parts])
        more = (0, tokens.size - len(flat))
        batch = self._batch([np.arange(end) for _, _, end in parts], tokens.size)
        return np.pad(flat, more), np.pad(of_features, more, constant_values=-1), batch

    def following(self, tokens: np.ndarray) -> Step:
        """One more token of each row, int32[B], as arguments of `Owl2.step`."""
        positions = [np.array([length][: min(length, 1)]) for length in self.lengths]
        self.lengths = self.lengths + (self.lengths > 0)
        return tokens, np.full(tokens.shape, -1, np.int32), self._batch(positions, tokens.size)

    def _batch(self, positions: Sequence[np.ndarray], size: int) -> PagedBatch:
        rows = len(positions)
        counts = np.array([len(part) for part in positions], np.int32)
        flat = np.concatenate(positions).astype(np.int32)
        more = (0, size - len(flat))
        of_token = np.repeat(np.arange(rows, dtype=np.int32), counts)
        return PagedBatch(
            rows=np.pad(of_token, more, constant_values=rows),
            positions=np.pad(flat, more),
            block_tables=self._tables,
            starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            lengths=self.lengths,
            count=np.array([np.count_nonzero(counts)], np.int32),
            prompt_lengths=self._prompts,
        )

    def newest(self, hidden: jax.Array, batch: PagedBatch) -> jax.Array:
        """Of states dtype[T, D] the last of each row: dtype[B, D]."""
        return hidden[np.maximum(batch.starts[1:] - 1, 0)]

    def dense(self, pages: Pages, num_layers: int) -> tuple[jax.Array, jax.Array]:
        """Keys and values that pages hold, each as dtype[L, B, K, T, H]."""

        def side_by_side(part: jax.Array) -> jax.Array:  # [L * P, K, page_size, H]
            found = part.reshape(num_layers, -1, *part.shape[1:])[
                :, self._tables
            ]  # [L, B, W, K, page_size, H]
            found = jnp.moveaxis(found, 2, 3)
            return found.reshape(*found.shape[:3], -1, found.shape[-1])[:, :, :, : self._length]

        return side_by_side(pages.keys.swapaxes(2, 3)), side_by_side(pages.values)
