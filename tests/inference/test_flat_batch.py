"""Pieces of sequences side by side."""

from __future__ import annotations

import numpy as np

from owl2_jax.inference.flat_batch import Pieces, padded
from owl2_jax.inference.program_sizes import StepSize


def test_pieces_stand_side_by_side_and_padding_belongs_to_nobody():
    pieces = Pieces(np.array([3, 0]), np.array([5, 1]), np.array([7, 8, 9]), None, np.array([5, 4]))
    tables = np.arange(9, dtype=np.int32).reshape(3, 3)
    batch = pieces.batch(StepSize(5, 3), tables)
    assert batch.rows.tolist() == [0, 0, 1, 3, 3]
    assert batch.positions.tolist() == [3, 4, 0, 0, 0]
    assert batch.starts.tolist() == [0, 2, 3, 3]
    assert batch.lengths.tolist() == [5, 1, 0]
    assert batch.prompt_lengths.tolist() == [5, 4, 0]
    assert batch.count.tolist() == [2]
    assert batch.block_tables is tables


def test_nothing_is_a_batch_too():
    nothing = np.zeros(0, np.int32)
    batch = Pieces(nothing, nothing, nothing, None, nothing).batch(StepSize(2, 2), np.zeros((2, 1), np.int32))
    assert (batch.rows.tolist(), batch.starts.tolist(), batch.count.tolist()) == ([2, 2], [0, 0, 0], [0])


def test_filled_up_behind():
    assert padded([1, 2], 4, -1).tolist() == [1, 2, -1, -1]
