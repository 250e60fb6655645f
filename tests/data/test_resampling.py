from __future__ import annotations

import numpy as np
from PIL import Image

from owl2_jax.data.resampling import resize_rows, touched, weights


def test_any_part_of_a_resize_equals_pillows_to_the_last_bit():
    rng = np.random.default_rng(0)
    for _ in range(300):
        size_in, size_out, width = (int(n) for n in rng.integers(1, (300, 300, 5)))
        first = int(rng.integers(size_out))
        last = int(rng.integers(first, size_out)) + 1
        pixels = rng.integers(0, 256, (size_in, width, 3), np.uint8)
        whole = np.asarray(Image.fromarray(pixels).resize((width, size_out), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(resize_rows(pixels, size_in, size_out, first, last), whole[first:last])


def test_rows_that_are_not_given_have_the_fill_colour():
    rng = np.random.default_rng(1)
    for _ in range(100):
        size_in, size_out = (int(n) for n in rng.integers(2, 200, 2))
        height = int(rng.integers(1, size_in))
        offset = int(rng.integers(size_in - height + 1))
        given = rng.integers(0, 256, (height, 3, 3), np.uint8)
        pixels = np.full((size_in, 3, 3), (1, 120, 250), np.uint8)
        pixels[offset : offset + height] = given
        whole = np.asarray(Image.fromarray(pixels).resize((3, size_out), Image.Resampling.BICUBIC))
        part = resize_rows(given, size_in, size_out, 0, size_out, offset, (1, 120, 250))
        np.testing.assert_array_equal(part, whole)


def test_rows_outside_of_those_touched_have_no_weight_on_the_input():
    rng = np.random.default_rng(2)
    for _ in range(200):
        size_in, size_out = (int(n) for n in rng.integers(1, 200, 2))
        low = int(rng.integers(size_in))
        high = int(rng.integers(low, size_in)) + 1
        first, last = touched(size_in, size_out, low, high)
        starts, taken = weights(size_in, size_out, 0, size_out)
        seen = [
            row
            for row, (start, each) in enumerate(zip(starts, taken, strict=True))
            if start < high and start + len(each) > low
        ]
        assert all(first <= row < last for row in seen)
        assert seen
