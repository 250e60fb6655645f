"""What the load test wants of a server: full batches, and what they save of the cores' time."""

from __future__ import annotations

import math
import os
import time

import pytest

from launch.load_test import (
    Tally,
    about_gain,
    cpu_of_both,
    gain,
    gain_wanted,
    is_batched,
    read_arguments,
)
from owl2_jax.core.errors import Owl2Error

ALONE = Tally(seconds=10.0, tokens=2000, cpu=12.0, passes=2000)  # 6 ms of the cores for a token


def among(tokens, cpu, passes):
    return Tally(seconds=10.0, tokens=tokens, cpu=cpu, passes=passes)


@pytest.mark.parametrize(
    ("milliseconds", "wanted"),
    [
        (6 / 16, 4.0),  # a pass costs the same for any number of rows, as on an accelerator
        (6 / 2.5, 0.8 * 2.5),  # a tiny model, whose rows cost nearly as much as a pass
        (7, 1.5),  # dearer than alone is no excuse
    ],
)
def test_what_is_wanted_is_four_times_or_what_shared_passes_save(milliseconds, wanted):
    many = among(6000, 6000 * milliseconds / 1000, 500)
    assert gain_wanted(ALONE, many) == pytest.approx(wanted)


def test_a_server_at_the_limit_of_a_tiny_model_passes():
    assert is_batched(ALONE, among(5000, 5000 * 0.0024, 420))


def test_a_server_without_batches_fails_even_where_more_cores_bring_more_tokens():
    assert not is_batched(ALONE, among(2100, 12.6, 2100))
    assert not is_batched(ALONE, among(9000, 54, 9000))


def test_a_server_that_idles_while_clients_wait_fails():
    assert not is_batched(ALONE, among(2900, 2900 * 0.0024, 240))


def test_the_words_say_what_it_rests_on():
    said = about_gain(ALONE, among(6000, 19.6, 500), 2)
    assert said.startswith("16 clients get 3.0 times the tokens of one (wanted: 1.5), 12.0 tokens of a pass")
    assert "pass, alone 1.0; a token costs 3.27 ms of the CPU, alone 6.00 ms, and" in said
    assert said.endswith("2.0 of 2 cores are busy, alone 1.2")


def test_where_the_time_of_the_cpu_is_not_known_it_is_said_and_four_times_is_wanted():
    many = among(9000, math.nan, 700)
    assert is_batched(ALONE, many)
    assert gain_wanted(ALONE, many) == 4.0
    assert about_gain(ALONE, many, 2).endswith("is not known, as this system does not tell")


def test_a_server_that_answers_one_client_nothing_fails_in_words():
    nothing = Tally(seconds=10.0, cpu=0.5)
    for many in (nothing, among(6000, 19.6, 500)):
        assert gain(nothing, many) < gain_wanted(nothing, many)
        assert about_gain(nothing, many, 2).startswith(
            "16 clients get 0.0 times the tokens of one (wanted: 4.0)"
        )


def test_the_time_of_both_processes_is_counted():
    before = cpu_of_both(os.getpid())
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert cpu_of_both(os.getpid()) - before > 0.05


def test_minutes_are_a_number_above_0():
    assert read_arguments(["--minutes", "0.5"]).minutes == 0.5
    assert read_arguments([]).minutes is None
    with pytest.raises(Owl2Error, match="minutes"):
        read_arguments(["--minutes", "0"])
