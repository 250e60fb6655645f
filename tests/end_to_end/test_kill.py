"""A killed run ends with the bits of one that was left alone; `kill_run.py` kills more often."""

from __future__ import annotations

from tests.end_to_end.kill_run import kill_and_compare


def test_five_kills_change_nothing(tmp_path):
    outcome = kill_and_compare(tmp_path, kills=5)
    assert sum(outcome.values()) == 5
    assert outcome["save"] >= 1


def test_two_kills_of_a_run_in_a_bucket_change_nothing(tmp_path, bucket_server):
    outcome = kill_and_compare(tmp_path, kills=2, server=bucket_server)
    assert sum(outcome.values()) == 2
