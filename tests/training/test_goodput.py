from __future__ import annotations

from types import SimpleNamespace

import pytest

from owl2_jax.training import goodput as module
from owl2_jax.training.goodput import COMPILE, DATA_WAIT, EVALUATE, SAVE, GoodputClock


@pytest.fixture
def passes(monkeypatch):
    """Lets time pass, in seconds; it stands still otherwise."""
    now = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def let_pass(seconds: float) -> None:
        now[0] += seconds

    return let_pass


def test_compiling_and_evaluating_are_no_part_of_the_steps(passes):
    clock = GoodputClock()
    for part, seconds in ((COMPILE, 6), (EVALUATE, 2), (DATA_WAIT, 1), (SAVE, 0.5)):
        with clock.during(part):
            passes(seconds)
    passes(2.5)
    seconds, shares = clock.read()
    assert seconds == pytest.approx(4)
    assert shares == pytest.approx(
        {"data_wait": 0.25, "save": 0.125, "goodput": 2.5 / 12, "elapsed_seconds": 12}
    )
    passes(4)
    assert clock.read()[1] == pytest.approx(
        {"data_wait": 0, "save": 0, "goodput": 6.5 / 16, "elapsed_seconds": 16}
    )


def test_goodput_counts_lost_steps_and_earlier_starts(passes):
    readings = [
        {"step": 10, "elapsed_seconds": 100.0, "goodput": 0.9},
        {"step": 20, "elapsed_seconds": 200.0, "goodput": 0.9},
    ]
    clock = GoodputClock.resume(readings, step=10, started=990.0)
    passes(30)
    seconds, shares = clock.read()
    assert seconds == pytest.approx(30)
    assert shares["elapsed_seconds"] == pytest.approx(200 + 10 + 30)
    assert shares["goodput"] == pytest.approx((90 + 30) / 240)
