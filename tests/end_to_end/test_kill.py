"""A killed run ends with the bits of one that was left alone; `kill_run.py` kills more often."""

from __future__ import annotations

from tests.end_to_end.kill_run import kill_and_compare


def test_five_kills_change_nothing(tmp_path):
    outcome = kill_and_compare(tmp_path, kills=5)
    assert sum(outcome.values()) == 5
    assert outcome["save"] >= 1
