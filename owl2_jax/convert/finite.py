"""Weights must be finite numbers, in the file and in the width they are stored in."""

from __future__ import annotations

from typing import Final

import ml_dtypes
import numpy as np

from owl2_jax.core.errors import Owl2Error

_PIECE: Final = 1 << 16  # values looked at in one go, so that they stay in cache
# Twice the bits of infinity, sign dropped, by bytes of a value: all that is not finite is at least that.
_INFINITE: Final = {
    np.dtype("<f2"): (np.uint16, 0xF800),
    np.dtype(ml_dtypes.bfloat16): (np.uint16, 0xFF00),
    np.dtype("<f4"): (np.uint32, 0xFF000000),
    np.dtype("<f8"): (np.uint64, 0xFFE0000000000000),
}


def is_float(dtype: np.dtype) -> bool:
    """Whether tensors of this dtype are floating point numbers that weights can be."""
    return dtype in _INFINITE


def all_finite(values: np.ndarray) -> bool:
    """Whether no value of a float array is infinite or nan; faster than numpy for narrow types."""
    unsigned, infinite = _INFINITE[values.dtype]
    bits = np.ravel(values, order="K").view(unsigned)
    for start in range(0, bits.size, _PIECE):
        if (bits[start : start + _PIECE] << unsigned(1)).max() >= infinite:
            return False
    return True


def cast(values: np.ndarray, dtype: np.dtype, where: str) -> np.ndarray:
    """`values` in another float type.

    Args:
      where: file and tensor, for messages.

    Raises:
      Owl2Error: values that are infinite or nan, or become so in `dtype`.
    """
    if not all_finite(values):
        raise Owl2Error(
            f"{where} holds values that are no finite numbers (nan or infinite): the weights are damaged, or "
            "their training went wrong; take an earlier or another checkpoint"
        )
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore"):
        narrow = values.astype(dtype)
    if not all_finite(narrow):
        largest = np.abs(values.astype(np.float64)).max()
        wider = "" if dtype == np.float32 else "; use --dtype float32"
        raise Owl2Error(f"{where} has values beyond {dtype.name} (largest {largest:.3g}){wider}")
    return narrow
