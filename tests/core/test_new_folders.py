from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_writing import new_file
from owl2_jax.core.locks import locked, take
from owl2_jax.core.new_folders import with_parents


def test_folders_stay_with_what_came_into_them_and_go_again_when_nothing_did(tmp_path):
    file = tmp_path / "a" / "b" / "c"
    with pytest.raises(ZeroDivisionError), with_parents(file):
        file.write_bytes(bytes([1 // 0]))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with pytest.raises(ZeroDivisionError), with_parents(file):
        file.write_bytes(bytes([1 // 0]))
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"], "what was there before stays"
    with with_parents(file):
        file.write_text("x")
    with pytest.raises(ZeroDivisionError), with_parents(file):
        file.write_bytes(bytes([1 // 0]))
    assert file.read_text() == "x"


def test_a_file_that_came_to_nothing_leaves_no_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), new_file(tmp_path / "a" / "b.txt") as part:
        part.write_bytes(bytes([1 // 0]))
    assert list(tmp_path.iterdir()) == []


def test_a_lock_on_a_full_disk_leaves_no_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "runs" / "evaluation" / "owl2.lock"
    with locked(path, "x"):
        pass
    assert list(tmp_path.iterdir()) == [], "nor does one that was held for nothing"
    monkeypatch.setattr("owl2_jax.core.locks._write_beside", full)
    with pytest.raises(Owl2Error, match="no space left while writing"):
        take(path, "x")
    assert list(tmp_path.iterdir()) == []
