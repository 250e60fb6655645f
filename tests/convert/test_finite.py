from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from owl2_jax.convert.finite import all_finite, cast, is_float
from owl2_jax.core.errors import Owl2Error

FLOATS = ["float16", "float32", "float64", ml_dtypes.bfloat16]


@pytest.mark.parametrize("dtype", FLOATS)
def test_only_infinite_and_nan_are_not_finite(dtype) -> None:
    dtype = np.dtype(dtype)
    largest = ml_dtypes.finfo(dtype).max
    good = np.full((3, 70_000), largest, dtype)
    good[1] = -good[0]
    good[2, :2] = (0.0, ml_dtypes.finfo(dtype).smallest_subnormal)
    assert all_finite(good)
    assert all_finite(good.T)
    assert all_finite(np.zeros(0, dtype))
    for number in (np.inf, -np.inf, np.nan, -np.nan):
        for place in ((0, 0), (2, 69_999)):
            bad = good.copy()
            bad[place] = number
            assert not all_finite(bad)
            assert not all_finite(bad.T)


def test_cast_keeps_what_fits_and_names_what_does_not() -> None:
    values = np.array([[1.5, -3.25], [1e30, 0.0]])
    np.testing.assert_array_equal(cast(values, np.dtype("<f4"), "x"), values.astype(np.float32))
    with pytest.raises(Owl2Error, match=r"^file: w has values beyond float16 \(largest 1e\+30\)"):
        cast(values, np.dtype("<f2"), "file: w")


def test_integers_are_no_weights() -> None:
    assert all(is_float(np.dtype(kind)) for kind in FLOATS)
    assert not any(is_float(np.dtype(kind)) for kind in ("i1", "u1", "i4", "?", "i8"))
