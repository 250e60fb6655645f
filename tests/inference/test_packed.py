"""Many arrays as one buffer, and back."""

from __future__ import annotations

import jax
import numpy as np

from owl2_jax.inference.packed import pack, unpack


def test_a_tree_comes_back_bit_for_bit():
    tree = {
        "floats": np.array([[1.5, -np.inf, np.nan]], np.float32),
        "ints": np.array([-1, 2**31 - 1], np.int32),
        "words": np.array([2**32 - 1, 0], np.uint32),
        "bools": np.array([True, False, True]),
        "none": None,
        "empty": np.zeros((0, 4), np.int32),
    }
    buffer, layout = pack(tree)
    assert buffer.dtype == np.uint32
    found = jax.jit(unpack, static_argnums=1)(buffer, layout)
    assert found["none"] is None
    for name in set(tree) - {"none"}:
        assert found[name].dtype == tree[name].dtype
        np.testing.assert_array_equal(found[name], tree[name])


def test_equal_shapes_have_equal_layouts():
    one, other = (pack([np.full(3, n, np.int32)])[1] for n in (1, 2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != pack([np.zeros(4, np.int32)])[1]
