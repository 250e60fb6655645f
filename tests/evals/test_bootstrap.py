"""Confidence intervals."""

from __future__ import annotations

import numpy as np
import pytest

from owl2_jax.evals.bootstrap import interval


def mean(means):
    return float(means[0])


def test_interval_of_a_mean_is_close_to_the_normal_one():
    scores = (np.arange(2000) % 4 == 0).astype(float)[:, None]
    low, high = interval(scores, mean)
    # Standard error sqrt(0.25 * 0.75 / 2000) = 0.00968, times 1.96.
    assert low == pytest.approx(0.25 - 0.019, abs=0.002)
    assert high == pytest.approx(0.25 + 0.019, abs=0.002)


def test_equal_seeds_give_equal_bounds():
    scores = np.random.default_rng(0).random((50, 1))
    assert interval(scores, mean) == interval(scores, mean)
    assert interval(scores, mean, seed=1) != interval(scores, mean)


def test_a_constant_score_has_no_width():
    assert interval(np.ones((10, 1)), mean) == (1.0, 1.0)
