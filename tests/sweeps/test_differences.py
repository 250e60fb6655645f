from __future__ import annotations

import math

import numpy as np
import pytest

from owl2_jax.sweeps.differences import ALPHA, corrected, paired, unpaired
from owl2_jax.sweeps.student_t import critical_value


def by_seed(values) -> dict[int, float]:
    return dict(enumerate(values))


def one(base, other):
    """The single comparison of two points."""
    return corrected([paired(by_seed(base), by_seed(other))])[0]


def test_difference_is_over_the_seeds_in_common_with_the_interval_of_their_t_test():
    found = corrected([paired({0: 80.0, 1: 70.0, 2: 90.0, 7: 1.0}, {0: 82.0, 1: 73.0, 2: 94.0, 9: 99.0})])[0]
    reach = 4.302653 * 1.0 / math.sqrt(3)
    assert (found.seeds, found.mean, found.deviation) == (3, 3.0, 1.0)
    assert (found.low, found.high) == pytest.approx((3 - reach, 3 + reach), rel=1e-6)
    assert found.is_seen
    assert found.text() == "+3.0 (0.5 to 5.5)"


def test_what_a_seed_does_to_both_points_falls_out():
    seeds = [60.0, 70.0, 80.0, 90.0]
    assert one(seeds, [s + d for s, d in zip(seeds, (1.9, 2.0, 2.1, 2.0), strict=True)]).is_seen
    assert not corrected([unpaired((75.0, 12.9, 4), (77.0, 12.9, 4))])[0].is_seen


@pytest.mark.parametrize(
    ("base", "other", "text"),
    [([1.0, 2.0, 3.0], [2.0, 1.5, 3.2], "no difference seen (at most 2.1)"),
     ([1.0, 2.0, 3.0], [0.0, 2.5, 2.8], "no difference seen (at most 2.1)"),
     ([1.0], [3.5], "+2.5 (one seed)"), ([1.1, 2.2], [1.4, 2.5], "+0.3 (the same on 2 seeds)"),
     ([5.0, 5.0], [5.0, 5.0], "none (the same on 2 seeds)"), ([5.0], [3.0], "-2.0 (one seed)"),
     ([9.0, 9.1, 9.0], [3.0, 3.0, 3.1], "-6.0 (-6.2 to -5.8)")],
)  # fmt: skip
def test_texts_of_differences(base, other, text):
    assert one(base, other).text() == text


def test_points_without_a_seed_in_common_have_no_difference():
    assert paired({0: 1.0}, {1: 2.0}) is None
    assert corrected([None]) == [None]


def test_holm_corrects_for_the_number_of_comparisons_and_intervals_agree():
    base = by_seed([0.0] * 5)
    spread = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    found = corrected([paired(base, by_seed(spread + mean)) for mean in (1.1, 4.0, 0.1)] + [None])
    p = [d.p for d in found[:3]]
    # By size of p: the second, the first, the third.
    assert found[1].p_corrected == pytest.approx(3 * p[1])
    assert found[0].p_corrected == pytest.approx(2 * p[0])
    assert found[2].p_corrected == pytest.approx(max(p[2], 2 * p[0]))
    assert p[0] < ALPHA < found[0].p_corrected, "alone it would be called"
    assert [d.is_seen for d in found[:3]] == [False, True, False]
    error = found[0].error
    assert found[1].high - found[1].mean == pytest.approx(critical_value(ALPHA / 3, 4) * error)
    assert found[0].high - found[0].mean == pytest.approx(critical_value(ALPHA / 2, 4) * error)
    assert all((d.low > 0 or d.high < 0) == d.is_seen for d in found[:3])


def test_untested_comparisons_do_not_count():
    base = by_seed([0.0, 0.0, 0.0])
    tested = paired(base, by_seed([1.0, 1.2, 1.4]))
    assert corrected([tested, paired(base, {0: 1.0})])[0] == corrected([tested])[0]


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_t_interval_holds_its_level_with_few_seeds_where_a_bootstrap_does_not(seeds):
    rng = np.random.default_rng(seeds)
    samples = rng.normal(0, 1, (4000, seeds))
    reach = critical_value(0.05, seeds - 1) * samples.std(1, ddof=1) / math.sqrt(seeds)
    holds = np.mean(np.abs(samples.mean(1)) < reach)
    assert holds == pytest.approx(0.95, abs=0.012)
    means = samples[:, rng.integers(0, seeds, (400, seeds))].mean(2)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    bootstrap = np.mean((low < 0) & (high > 0))
    assert bootstrap == pytest.approx({3: 0.75, 5: 0.84, 10: 0.90}[seeds], abs=0.03)


def test_even_one_false_difference_among_nine_is_called_one_time_in_twenty():
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(600):
        base, *others = rng.normal(0, 1, (10, 5))
        found = corrected([paired(by_seed(base), by_seed(other)) for other in others])
        called += any(d.is_seen for d in found)
    assert called / 600 < 0.07


def test_means_and_spreads_alone_are_compared_as_no_pairs():
    found = unpaired((10.0, 1.0, 3), (14.0, 1.0, 3))
    assert (found.mean, found.seeds, found.df, found.deviation) == (4.0, 3, 4, None)
    assert found.error == pytest.approx(math.sqrt(2 / 3))
    assert unpaired((10.0, 0.0, 1), (14.0, 1.0, 3)).text() == "+4.0 (one seed)"
