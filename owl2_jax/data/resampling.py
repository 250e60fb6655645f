"""Parts of what Pillow's bicubic resize gives, to the last bit, where the whole would be too large to build.

Pillow resizes in two passes, rows and then columns, each rounded to 8 bits. In
a pass each output pixel is a weighted sum of input pixels, with weights of 22
bits after the point. Sums of such integers are exact in float64, so any part
of a pass can be computed by itself.
"""

from __future__ import annotations

import numpy as np

_SUPPORT = 2.0  # of the bicubic kernel, in pixels of the coarser side
_BITS = 22
_STRIP = 1 << 16  # values of a row that are worked on at a time: some MB for the usual number of weights


def weights(size_in: int, size_out: int, first: int, last: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Weights of output pixels `first` to `last` - 1 of a pass from `size_in` to `size_out` pixels.

    Returns:
      int64[n], the first input pixel of each, and for each its int64 weights, times 2 ** 22.
    """
    scale = size_in / size_out
    coarse = max(scale, 1.0)
    centres = (np.arange(first, last) + 0.5) * scale
    starts = np.maximum((centres - _SUPPORT * coarse + 0.5).astype(np.int64), 0)
    ends = np.minimum((centres + _SUPPORT * coarse + 0.5).astype(np.int64), size_in)
    found = []
    for centre, start, end in zip(centres, starts, ends, strict=True):
        kernel = _bicubic((np.arange(start, end) - centre + 0.5) * (1.0 / coarse))
        # Added up in order, as Pillow does it; numpy's own sum adds in another order.
        scaled = kernel / np.add.accumulate(kernel)[-1] * (1 << _BITS)
        found.append(np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5)).astype(np.int64))
    return starts, found


def resize_rows(
    pixels: np.ndarray,
    size_in: int,
    size_out: int,
    first: int,
    last: int,
    offset: int = 0,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> np.ndarray:
    """Rows `first` to `last` - 1 of `size_in` rows resized to `size_out`, uint8[last - first, w, 3].

    Args:
      pixels: uint8[h, w, 3], the rows from `offset` on; the others have the colour `fill`.
    """
    height, width = pixels.shape[:2]
    flat = pixels.reshape(height, width * 3)
    result = np.empty((last - first, width * 3), np.uint8)
    ground = np.tile(np.array(fill, np.float64), width)
    starts, found = weights(size_in, size_out, first, last)
    for row, (start, taken) in enumerate(zip(starts, found, strict=True)):
        low = min(max(start - offset, 0), height)
        high = max(min(start + len(taken) - offset, height), low)
        inside = taken[low + offset - start : high + offset - start].astype(np.float64)
        outside = float(taken.sum() - inside.sum())
        for left in range(0, width * 3, _STRIP):
            strip = slice(left, left + _STRIP)
            total = inside @ flat[low:high, strip].astype(np.float64) + outside * ground[strip]
            levels = np.floor((total + (1 << (_BITS - 1))) / (1 << _BITS))
            result[row, strip] = np.clip(levels, 0, 255)
    return result.reshape(last - first, width, 3)


def touched(size_in: int, size_out: int, low: int, high: int) -> tuple[int, int]:
    """The output pixels that depend on the input pixels `low` to `high` - 1: (first, after the last)."""
    scale = size_in / size_out
    reach = _SUPPORT * max(scale, 1.0) + 1
    first = int(np.floor((low - reach) / scale))
    last = int(np.ceil((high + reach) / scale)) + 1
    return max(first, 0), min(last, size_out)


def _bicubic(x: np.ndarray) -> np.ndarray:
    """The cubic convolution kernel with a = -0.5."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
