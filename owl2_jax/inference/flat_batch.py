"""Pieces of sequences as one flat batch of tokens, padded to a static size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from owl2_jax.inference.program_sizes import StepSize
from owl2_jax.model.pages import PagedBatch


@dataclass
class Pieces:
    """Some tokens of each of n sequences.

    Attributes:
      starts, ends: positions, int32[n] each.
      tokens: int32[total], piece after piece.
      features: int32[total], see `Owl2.step`; None when no token is of an image.
      prompt_lengths: int32[n].
    """

    starts: np.ndarray
    ends: np.ndarray
    tokens: np.ndarray
    features: np.ndarray | None
    prompt_lengths: np.ndarray

    def batch(self, size: StepSize, block_tables: np.ndarray) -> PagedBatch:
        """Whose tokens they are: row i is piece i, whose pages are row i of int32[S, W]."""
        counts, rows = self.ends - self.starts, len(self.starts)
        offsets = np.full(size.rows + 1, len(self.tokens), np.int32)
        offsets[0] = 0
        np.cumsum(counts, out=offsets[1 : rows + 1])
        of_token = np.full(size.tokens, size.rows, np.int32)
        of_token[: len(self.tokens)] = np.repeat(np.arange(rows, dtype=np.int32), counts)
        positions = np.arange(size.tokens, dtype=np.int32)
        positions[: len(self.tokens)] += np.repeat(self.starts - offsets[:rows], counts)
        positions[len(self.tokens) :] = 0
        return PagedBatch(
            rows=of_token,
            positions=positions,
            block_tables=block_tables,
            starts=offsets,
            lengths=padded(self.ends, size.rows),
            count=np.array([rows], np.int32),
            prompt_lengths=padded(self.prompt_lengths, size.rows),
        )


def padded(values: Sequence[int] | np.ndarray, size: int, filler: int = 0) -> np.ndarray:
    """int32[size], filled up behind."""
    array = np.full(size, filler, np.int32)
    array[: len(values)] = values
    return array
