"""Differences of the points to the base point, with intervals, for a handful of seeds.

A seed gives every point the same order of the data and the same start, so that
what it does to a score is in both sides of a difference and falls out: the
differences of the seeds in common are taken first, and their mean and spread
tell what a change did.

Intervals and tests are Student's t on these differences. Sweeps have 3 to 10
seeds, where the alternatives do not hold what they promise: resampling 3 values
gives ten different means, and the 95 % interval of such a bootstrap holds the
true difference 3 times in 4 (9 times in 10 for 10 seeds); an exact test by
exchanging signs cannot go below p = 2 / 2^n, 0.06 for 5 seeds, and finds
nothing. The t-test holds its level where the differences are about normal,
which a score's are as it is a mean over many questions, whatever the questions
are. Points do not share one estimate of the spread: it differs between them by
tens.

All points are compared with one base, so that some would differ by chance.
Holm's procedure holds the chance of even one false difference among the points
of a measure at 5 %; every measure (a benchmark, a part of one, a loss) is a
family of its own. The intervals agree with it: of m comparisons, the r-th
difference that is seen has the level 1 - 0.05 / (m - r + 1), and what is not
seen 1 - 0.05 / (m - r), with all r that are.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from owl2_jax.sweeps.student_t import critical_value, two_sided_p

ALPHA: Final = 0.05
_EQUAL: Final = 1e-9  # a deviation below this share of the values is rounding


@dataclass(frozen=True)
class Difference:
    """Of a point to the base, for one measure.

    Attributes:
      seeds: that both have.
      mean: over them.
      deviation: sample standard deviation of the seeds' differences; None for
        one seed, and where seeds are no pairs.
      error: standard error of the mean; None where nothing tells it (one seed,
        or the same difference on every seed).
      df: degrees of freedom of `error`.
      p: two-sided probability of such a mean without an effect, alone.
      p_corrected: the same among all comparisons of the measure (Holm).
      low: end of the interval.
      high: end of the interval.
    """

    seeds: int
    mean: float
    deviation: float | None = None
    error: float | None = None
    df: int = 0
    p: float | None = None
    p_corrected: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def is_seen(self) -> bool:
        """Whether it is told from none, among all comparisons."""
        return self.p_corrected is not None and self.p_corrected <= ALPHA

    @property
    def at_most(self) -> float | None:
        """The largest difference, to either side, that the seeds leave possible."""
        return None if self.low is None or self.high is None else max(-self.low, self.high)

    def text(self, digits: int = 1) -> str:
        """For a table: "+2.1 (0.4 to 3.8)", or "no difference seen (at most 3.8)"."""
        mean = f"{self.mean:+.{digits}f}"
        if self.low is None or self.high is None:
            if self.seeds == 1:
                return f"{mean} (one seed)"
            return f"{mean if self.mean else 'none'} (the same on {self.seeds} seeds)"
        if self.is_seen:
            return f"{mean} ({self.low:.{digits}f} to {self.high:.{digits}f})"
        return f"no difference seen (at most {self.at_most:.{digits}f})"


def paired(base: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """`other` less `base`, both {seed: value}, over the seeds in common; None when there is none."""
    values = [other[seed] - base[seed] for seed in other if seed in base]
    if not values:
        return None
    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return Difference(1, mean)
    deviation = statistics.stdev(values)
    if deviation <= _EQUAL * max(map(abs, [*other.values(), *base.values()])):
        return Difference(count, mean, 0.0)
    return _tested(Difference(count, mean, deviation, deviation / math.sqrt(count), count - 1))


def unpaired(base: tuple[float, float, int], other: tuple[float, float, int]) -> Difference:
    """`other` less `base` where only (mean, deviation, seeds) of both are known: Welch's t-test.

    Wider than `paired`, as what a seed does to both stays in. Whole degrees of
    freedom, rounded down.
    """
    parts = [deviation**2 / seeds for _, deviation, seeds in (base, other)]
    seeds = min(base[2], other[2])
    mean, variance = other[0] - base[0], sum(parts)
    if seeds < 2 or variance == 0:
        return Difference(seeds, mean)
    df = variance**2 / sum(part**2 / (n - 1) for part, n in zip(parts, (base[2], other[2]), strict=True))
    # The sum is at least the smaller of both seeds less one; rounding must not take it below.
    return _tested(Difference(seeds, mean, None, math.sqrt(variance), math.floor(df + _EQUAL)))


def _tested(found: Difference) -> Difference:
    assert found.error is not None
    return replace(found, p=two_sided_p(found.mean / found.error, found.df))


def corrected(found: Sequence[Difference | None]) -> list[Difference | None]:
    """The comparisons of one measure, corrected for their number, with intervals.

    Those that cannot be tested (`p` is None) stay as they are and do not count.
    """
    tested = {i: one.p for i, one in enumerate(found) if one is not None and one.p is not None}
    order = sorted(tested, key=lambda i: tested[i])
    # A corrected p is never below that of a smaller p.
    steps = [min(1.0, tested[index] * (len(order) - rank)) for rank, index in enumerate(order)]
    holm = list(itertools.accumulate(steps, max))
    seen = sum(p <= ALPHA for p in holm)
    result = list(found)
    for rank, (index, p) in enumerate(zip(order, holm, strict=True)):
        one, level = found[index], ALPHA / (len(order) - min(rank, seen))
        assert one is not None
        assert one.error is not None
        reach = critical_value(level, one.df) * one.error
        result[index] = replace(one, p_corrected=p, low=one.mean - reach, high=one.mean + reach)
    return result
