from __future__ import annotations

import numpy as np
import pytest

from owl2_jax.sweeps.student_t import critical_value, power, two_sided_p, visible_effect


@pytest.mark.parametrize(
    ("alpha", "df", "value"),
    # Printed tables of Student's t.
    [(0.05, 1, 12.7062), (0.05, 2, 4.30265), (0.05, 4, 2.77645), (0.01, 9, 3.24984), (0.001, 5, 6.86883),
     (0.05, 30, 2.04227)],
)  # fmt: skip
def test_critical_values_are_those_of_the_tables(alpha, df, value):
    assert critical_value(alpha, df) == pytest.approx(value, rel=1e-5)
    assert two_sided_p(-value, df) == pytest.approx(alpha, rel=1e-4)


def test_without_an_effect_every_t_is_as_likely_as_it_can_be():
    assert [two_sided_p(0.0, df) for df in (1, 2, 3, 10)] == [1.0] * 4
    assert two_sided_p(1e9, 3) == pytest.approx(0, abs=1e-12)


def test_power_is_the_share_of_simulated_samples_that_are_told():
    rng = np.random.default_rng(0)
    for seeds, effect in ((3, 4.0), (5, 3.0), (10, 2.5)):
        samples = rng.normal(effect / np.sqrt(seeds), 1.0, (40_000, seeds))
        t = samples.mean(1) / (samples.std(1, ddof=1) / np.sqrt(seeds))
        simulated = np.mean(np.abs(t) > critical_value(0.05, seeds - 1))
        assert power(effect, seeds - 1, 0.05) == pytest.approx(simulated, abs=0.01)
    assert power(0.0, 4, 0.05) == pytest.approx(0.05, abs=1e-4)


def test_visible_effect_is_seen_as_often_as_wanted():
    # 1.682 deviations with five pairs, as tables of sample sizes have it.
    assert visible_effect(4, 0.05, 0.8) / np.sqrt(5) == pytest.approx(1.682, abs=0.002)
    for df, alpha in ((1, 0.05), (2, 0.05 / 9), (9, 0.05 / 200)):
        assert power(visible_effect(df, alpha, 0.8), df, alpha) == pytest.approx(0.8, abs=1e-4)
