"""A killed run ends with the bits of one that was left alone; `kill_run.py` kills more often."""

from __future__ import annotations

import pytest

from tests.end_to_end.kill_run import Victim, kill_and_compare, undisturbed


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> Victim:
    return undisturbed(tmp_path_factory.mktemp("kills"), steps=21)


def test_five_kills_change_nothing(expected):
    outcome = kill_and_compare(expected.run.parent, kills=5, expected=expected)
    assert sum(outcome.values()) == 5
    assert outcome["save"] >= 1


def test_two_kills_of_a_run_in_a_bucket_change_nothing(expected, bucket_server):
    outcome = kill_and_compare(expected.run.parent, kills=2, server=bucket_server, expected=expected)
    assert sum(outcome.values()) == 2
