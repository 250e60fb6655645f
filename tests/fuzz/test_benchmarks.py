from __future__ import annotations

import numpy as np
import pytest

from owl2_jax.evals import circular
from tests.fuzz import benchmarks
from tests.fuzz.benchmark_files import write_originals
from tests.fuzz.run import run


def repeat(check, *arguments):
    rng = np.random.default_rng(0)
    for _ in range(100):
        check(*arguments, rng)


def test_1000_rows_and_answers_of_benchmarks_give_no_finding():
    assert run("benchmarks", 1000) == []


def test_an_option_that_is_lost_is_a_finding(monkeypatch, tmp_path):
    monkeypatch.setattr(circular, "LETTERS", "ABC")
    with pytest.raises(AssertionError):
        repeat(benchmarks.check_table, tmp_path)


def test_a_letter_that_is_misread_is_a_finding(monkeypatch):
    monkeypatch.setattr(benchmarks, "parse_choice", lambda answer, options: 0)
    with pytest.raises(AssertionError, match="is read as 0"):
        repeat(benchmarks.check_written_letter)


def test_a_neighbour_that_changes_is_a_finding(monkeypatch, tmp_path):
    whole = write_originals(tmp_path, "gqa_testdev")
    monkeypatch.setattr(benchmarks, "read_all", lambda name, root: (whole[:1], []))
    with pytest.raises(AssertionError, match="changed question"):
        repeat(benchmarks.check_rows, tmp_path, "gqa_testdev", whole)
