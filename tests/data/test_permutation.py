from __future__ import annotations

import itertools

import numpy as np
import pytest

from owl2_jax.data.permutation import TABLE_LENGTH, permuted


@pytest.mark.parametrize("length", [1, 2, 100, TABLE_LENGTH, TABLE_LENGTH + 1, 66_049, 70_001])
def test_every_record_comes_once(length):
    assert {permuted(place, length, (1, 2)) for place in range(length)} == set(range(length))


@pytest.mark.parametrize("length", [1000, 100_000])
def test_order_is_random(length):
    orders = [
        np.array([permuted(place, length, seeds) for place in range(0, length, length // 1000)])
        for seeds in ((0, 0), (0, 1), (1, 0))
    ]
    for order in orders:
        assert abs(order.mean() / length - 0.5) < 0.1
        assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.12
        assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.12
    for one, other in itertools.pairwise(orders):
        assert (one == other).mean() < 0.02


def test_cipher_is_uniform_over_tenths():
    length = 1_000_000
    places = np.array([permuted(place, length, (7,)) for place in range(10_000)])
    counts = np.histogram(places, bins=10, range=(0, length))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 30  # chi-squared with 9 degrees, p about 0.0004
