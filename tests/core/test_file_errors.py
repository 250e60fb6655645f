from __future__ import annotations

import os
import time

import pytest

from owl2_jax.core import file_errors, json_files
from owl2_jax.core.errors import Owl2Error


def test_missing_folder_and_forbidden_are_told_apart(tmp_path):
    (tmp_path / "answers.json").write_text("{}")
    with pytest.raises(Owl2Error, match=r"answer\.json is missing; there is answers\.json"):
        json_files.read_json(tmp_path / "answer.json")
    with pytest.raises(Owl2Error, match="is a folder"):
        json_files.read_json(tmp_path)
    forbidden = file_errors.why_not_readable("a.json", PermissionError(13, "Permission denied"))
    assert "may not read" in forbidden


def test_a_name_is_looked_for_in_a_big_folder_in_time(tmp_path, monkeypatch):
    names = [f"{number:012}.jpg" for number in range(100_000)]
    monkeypatch.setattr(os, "listdir", lambda folder: names)
    start = time.process_time()
    said = file_errors.why_not_readable(tmp_path / "000000012345.jgp", FileNotFoundError())
    assert "000000012345.jgp is missing; there is 000000012345.jpg" in said
    assert time.process_time() - start < 2
