"""What the load test says of a server: full batches, and what they save of the cores' time."""

from __future__ import annotations

import asyncio
import math
import os
import time

import pytest

from launch import load_test
from launch.load_test import (
    Tally,
    about_gain,
    cpu_of_both,
    gain,
    read_arguments,
)
from owl2_jax.core.errors import Owl2Error
from tests.testing.answering import answering

ALONE = Tally(seconds=10.0, tokens=2000, cpu=12.0, passes=2000)  # 6 ms of the cores for a token


def among(tokens, cpu, passes):
    return Tally(seconds=10.0, tokens=tokens, cpu=cpu, passes=passes)


def test_the_words_say_what_it_rests_on():
    said = about_gain(ALONE, among(6000, 19.6, 500), 2)
    assert said.startswith("16 clients get 3.0 times the tokens of one, 12.0 tokens of a pass")
    assert "pass, alone 1.0; a token costs 3.27 ms of the CPU, alone 6.00 ms, and" in said
    assert said.endswith("2.0 of 2 cores are busy, alone 1.2")


def test_where_the_time_of_the_cpu_is_not_known_it_is_said():
    many = among(9000, math.nan, 700)
    assert about_gain(ALONE, many, 2).endswith("is not known, as this system does not tell")


def test_a_server_that_answers_one_client_nothing_has_no_gain():
    nothing = Tally(seconds=10.0, cpu=0.5)
    for many in (nothing, among(6000, 19.6, 500)):
        assert gain(nothing, many) == 0
        assert about_gain(nothing, many, 2).startswith("16 clients get 0.0 times the tokens of one, ")


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_wrong_answer_fails_and_a_server_without_batches_does_not(spoilt, monkeypatch, capsys):
    async def nothing(*_):
        pass

    monkeypatch.setattr(load_test, "warm_up", nothing)
    monkeypatch.setattr(load_test, "COMPARED", 2)
    args = read_arguments(["--seconds=0.1", "--clients=2"])
    alone = 2 * len(load_test.questions(args.tokens))
    with answering(lambda text, number: "other" if spoilt and number > alone else text) as url:
        assert asyncio.run(load_test.run(url, os.getpid(), args)) != spoilt
    assert "2 clients get " in capsys.readouterr().out


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
