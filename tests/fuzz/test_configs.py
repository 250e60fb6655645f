from __future__ import annotations

from tests.fuzz.run import run


def test_mutated_configs_are_read_as_written_or_refused_in_words():
    assert run("configs", 2000) == []
