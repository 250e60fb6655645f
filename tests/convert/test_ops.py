from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from owl2_jax.convert.ops import Convolution, Flat, Linear, QkvPart, Same, transposed

CASES = [
    (Same(), (5,), (5,)),
    (Same(2), (5,), (1, 1, 5)),
    (Same(1), (3, 5), (1, 3, 5)),
    (Flat(), (4, 3, 2), (24,)),
    (Linear(), (6, 4, 3, 2), (24, 6)),
    (Linear(2), (4, 3, 7), (7, 12)),
    (Convolution(), (2, 2, 3, 5), (5, 3, 2, 2)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("op", "ours", "theirs"), CASES)
def test_every_operation_is_undone_exactly(op, ours, theirs, dtype) -> None:
    values = np.random.default_rng(0).normal(size=ours).astype(dtype)
    there = op.to_theirs(values)
    assert there.shape == theirs == op.their_shape(ours)
    back = op.to_ours(there, ours)
    assert back.dtype == values.dtype
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("shape", [(1, 1), (33, 7), (64, 100)])
def test_transposed_equals_numpy(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(ml_dtypes.bfloat16)
    moved = transposed(values)
    assert moved.flags.c_contiguous
    np.testing.assert_array_equal(moved, values.T)


def test_fused_rows_are_ordered_by_head_then_part_then_width() -> None:
    heads, width, inputs = 2, 3, 4
    weight = np.arange(heads * 3 * width * inputs).reshape(-1, inputs)
    kernel = Linear().to_ours(weight, (inputs, heads, 3, width))
    for head in range(heads):
        for part in range(3):
            row = (head * 3 + part) * width + 1
            np.testing.assert_array_equal(kernel[:, head, part, 1], weight[row])


@pytest.mark.parametrize("shape", [(5, 2, 3, 4), (2, 3, 4)])
def test_separate_parts_fill_and_leave_the_fused_tensor(shape: tuple[int, ...]) -> None:
    fused = np.random.default_rng(0).normal(size=shape)
    parts = [QkvPart(part).to_theirs(fused) for part in range(3)]
    assert parts[0].shape == QkvPart(0).their_shape(shape) == (8, *shape[:-3])
    back = [QkvPart(part).to_ours(values, shape) for part, values in enumerate(parts)]
    np.testing.assert_array_equal(np.stack(back, axis=-2), fused)
