from __future__ import annotations

from tests.fuzz.run import run


def test_1000_files_give_no_finding():
    assert run("peft_configs", 1000) == []
