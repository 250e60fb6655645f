from __future__ import annotations

import time

import pytest

from owl2_jax.training.clock import COMPILE, DATA_WAIT, EVALUATE, Clock


def test_compiling_and_evaluating_are_no_part_of_the_steps():
    clock = Clock()
    with clock.during(COMPILE):
        time.sleep(0.2)
    with clock.during(EVALUATE):
        time.sleep(0.2)
    with clock.during(DATA_WAIT):
        time.sleep(0.05)
    seconds, shares = clock.read()
    assert 0.05 <= seconds < 0.2
    assert shares["data_wait"] > 0.5
    assert shares["goodput"] < 0.3


def test_goodput_counts_lost_steps_and_earlier_starts():
    readings = [
        {"step": 10, "elapsed_seconds": 100.0, "goodput": 0.9},
        {"step": 20, "elapsed_seconds": 200.0, "goodput": 0.9},
    ]
    clock = Clock.resume(readings, step=10, started=time.perf_counter())
    _, shares = clock.read()
    assert shares["elapsed_seconds"] == pytest.approx(200, abs=1)
    assert shares["goodput"] == pytest.approx(90 / 200, abs=0.01)
