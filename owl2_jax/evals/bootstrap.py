"""Confidence intervals by bootstrap over questions (Efron 1979), percentile method."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def interval(
    features: np.ndarray,
    headline: Callable[[np.ndarray], float],
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Lower and upper bound of a score that is a function of means.

    Args:
      features: float64[N, C], one row per independent unit (question or image).
      headline: From the means of the columns, float64[C], to the score.
      resamples: How often N units are drawn again, with replacement.
      level: Share of the resampled scores between the bounds.
      seed: Equal seeds give equal bounds.
    """
    total = len(features)
    random = np.random.default_rng(seed)
    scores = np.empty(resamples)
    for index in range(resamples):
        # How often each unit was drawn: the weighted mean of the units is the mean of the sample.
        weights = np.bincount(random.integers(0, total, total), minlength=total)
        scores[index] = headline(weights @ features / total)
    outside = (1.0 - level) / 2
    low, high = np.quantile(scores, [outside, 1.0 - outside])
    return float(low), float(high)
