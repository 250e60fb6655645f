"""Student's t for whole degrees of freedom: probabilities, critical values and the power of a test.

Exact sums for whole degrees of freedom (Abramowitz and Stegun, Handbook of Mathematical Functions,
26.7.3 and 26.7.4), so that nothing beyond NumPy is needed.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np

_HALVINGS: Final = 80
_CELLS: Final = 2000  # of the integral over the sample deviation


def two_sided_p(t: float, df: int) -> float:
    """Probability of a value of at least |t| when there is no effect.

    Args:
      df: degrees of freedom, at least 1.
    """
    angle = math.atan(abs(t) / math.sqrt(df))
    cosine, inside = math.cos(angle), 0.0
    # The k-th term has cosine ** k; an odd df starts at 1, an even one at 0.
    power = df % 2
    term = cosine if power else 1.0
    while power <= df - 2:
        inside += term
        term *= (power + 1) / (power + 2) * cosine**2
        power += 2
    inside *= math.sin(angle)
    within = 2 / math.pi * (angle + inside) if df % 2 else inside
    return max(0.0, 1.0 - within)


@lru_cache(maxsize=4096)
def critical_value(alpha: float, df: int) -> float:
    """The t that is exceeded, to either side, with probability `alpha` when there is no effect."""
    low, high = 0.0, 1.0
    while two_sided_p(high, df) > alpha:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, df) > alpha else (low, middle)
    return high


def power(effect: float, df: int, alpha: float) -> float:
    """How often a two-sided t-test at `alpha` sees an effect.

    Args:
      effect: its true size in standard errors.
      df: degrees of freedom of the sample deviation.
    """
    # Given the sample deviation s (true one: 1), t exceeds c where the mean, in
    # standard errors, exceeds c s; s has the density of a chi by the root of df.
    s = (np.arange(_CELLS) + 0.5) * ((1 + 9 / math.sqrt(2 * df)) / _CELLS)
    density = np.exp((df - 1) * np.log(s) - df * s**2 / 2)
    limit = critical_value(alpha, df) * s
    seen = _normal(effect - limit) + _normal(-effect - limit)
    return float((density * seen).sum() / density.sum())


@lru_cache(maxsize=4096)
def visible_effect(df: int, alpha: float, wanted: float) -> float:
    """The smallest effect, in standard errors, that is seen with probability `wanted`."""
    low, high = 0.0, 1.0
    while power(high, df, alpha) < wanted:
        low, high = high, 2 * high
    for _ in range(24):  # to seven digits
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, df, alpha) < wanted else (low, middle)
    return high


def _normal(z: np.ndarray) -> np.ndarray:
    """Distribution function of the standard normal."""
    return np.array([0.5 * math.erfc(-one / math.sqrt(2)) for one in z])
