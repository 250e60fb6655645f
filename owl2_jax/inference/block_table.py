"""Which pages hold the positions of every running sequence, as the step program reads it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class BlockTables:
    """A row of pages for each of R running sequences; row R belongs to nobody, and may be borrowed.

    Attributes:
      array: int32[R + 1, W].
    """

    def __init__(self, rows: int, width: int):
        self.array = np.zeros((rows + 1, width), np.int32)
        self._filled = [0] * (rows + 1)

    def put(self, row: int, pages: Sequence[int], whole: bool = False) -> None:
        """Writes the pages of a sequence; those that it had are not written again, unless `whole`."""
        start = 0 if whole else self._filled[row]
        if start < len(pages):
            self.array[row, start : len(pages)] = pages[start:]
        self._filled[row] = len(pages)
