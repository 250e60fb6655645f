"""What the load test wants of a server: as much as the machine has the time for."""

from __future__ import annotations

import os
import time

import pytest

from launch.load_test import Tally, about_gain, cpu_of_both, gain, gain_wanted

ALONE = Tally(seconds=10.0, tokens=2000, cpu=12.0)


@pytest.mark.parametrize(
    ("cpu", "cores", "wanted"),
    [
        (12.0, 64, 4.0),  # so many cores bound nothing
        (6.0, 2, 0.8 * 2 / 0.001 / 200),  # half as dear as alone: 2000 tokens per second are possible
        (42.0, 2, 0.8 * 2 / 0.006 / 200),  # dearer than alone is no excuse
    ],
)
def test_what_is_wanted_is_four_times_or_what_the_cores_have_the_time_for(cpu, cores, wanted):
    many = Tally(seconds=10.0, tokens=6000, cpu=cpu)
    assert gain_wanted(ALONE, many, cores) == pytest.approx(min(wanted, 4.0))


def test_the_words_say_what_it_rests_on():
    said = about_gain(ALONE, Tally(seconds=10.0, tokens=6000, cpu=19.6), 2)
    assert said.startswith("16 clients get 3.0 times the tokens of one (wanted: 2.4); a token costs 3.27 ms")
    assert said.endswith("2.0 of 2 cores are busy, alone 1.2")


def test_a_server_that_answers_one_client_nothing_fails_in_words():
    nothing = Tally(seconds=10.0, cpu=0.5)
    for many in (nothing, Tally(seconds=10.0, tokens=6000, cpu=19.6)):
        assert gain(nothing, many) < gain_wanted(nothing, many, 2)
        assert about_gain(nothing, many, 2).startswith(
            "16 clients get 0.0 times the tokens of one (wanted: 4.0)"
        )


def test_the_time_of_both_processes_is_counted():
    before = cpu_of_both(os.getpid())
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert cpu_of_both(os.getpid()) - before > 0.05
