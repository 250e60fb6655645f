from __future__ import annotations

import os

import pytest

from owl2_jax.core import text_files
from owl2_jax.core.errors import Owl2Error


def test_a_byte_order_mark_is_skipped_and_line_separators_stay_in_their_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "x\xe2\x80\xa8y\xc2\x85z"}\r\n  \n{"a": 2}\n')
    assert list(text_files.json_lines(path)) == [(1, {"a": "x\u2028y\u0085z"}), (3, {"a": 2})]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        ('{"a": 1}'.encode("utf-16-le"), "UTF-16"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"<!DOCTYPE html><p>no</p>", "web page"),
        (b'{"a": "\xff"}', "byte 0xff at offset 7"),
        (b"", "empty"),
        (b'{"a": [1', "cut off"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_what_is_no_json_is_named(tmp_path, data, message):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(Owl2Error, match=message) as caught:
        text_files.read_json(path)
    assert str(path) in str(caught.value)


def test_missing_folder_and_forbidden_are_told_apart(tmp_path):
    (tmp_path / "answers.json").write_text("{}")
    with pytest.raises(Owl2Error, match=r"answer\.json is missing; there is answers\.json"):
        text_files.read_json(tmp_path / "answer.json")
    with pytest.raises(Owl2Error, match="is a folder"):
        text_files.read_json(tmp_path)
    forbidden = text_files.why_not_readable("a.json", PermissionError(13, "Permission denied"))
    assert "may not read" in forbidden


def test_a_written_file_is_whole_or_as_before(tmp_path):
    path = tmp_path / "new" / "a.json"
    text_files.write_json(path, {"a": 1})
    assert text_files.read_json_object(path) == {"a": 1}
    with pytest.raises(UnicodeEncodeError):
        text_files.write_text(path, "\ud800")
    assert text_files.read_json(path) == {"a": 1}
    assert os.listdir(path.parent) == ["a.json"]


def test_why_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Owl2Error, match="is a file, not a folder"):
        text_files.write_text(tmp_path / "file" / "a.json", "")
    assert "no space left" in text_files.why_not_writable("a", OSError(28, "No space left on device"))
    assert "by this user" in text_files.why_not_writable("a", PermissionError(13, "Permission denied"))


def test_a_folder_that_cannot_be_written_is_told_before_any_work_and_nothing_is_made(tmp_path, monkeypatch):
    text_files.check_folder(tmp_path / "new" / "folder", "--workdir")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(
        Owl2Error, match=r"^--workdir .*file/x cannot be made: .*file is a file, not a folder$"
    ):
        text_files.check_folder(tmp_path / "file" / "x", "--workdir")
    with pytest.raises(Owl2Error, match=r"is a folder, expected the name of a file"):
        text_files.check_file(tmp_path, "--output")

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.touch", forbidden)
    with pytest.raises(Owl2Error, match=r"--output .* cannot be written by this user \(Permission denied\)"):
        text_files.check_folder(tmp_path, "--output")


def test_a_new_file_appears_whole_behind_a_link_too_or_not_at_all(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target.png")
    with text_files.new_file(tmp_path / "link") as part:
        assert part.suffix == ".png"
        part.write_bytes(b"whole")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target.png").read_bytes() == b"whole"
    with pytest.raises(ZeroDivisionError), text_files.new_file(tmp_path / "target.png") as part:
        part.write_bytes(b"half" * (1 // 0))
    assert (tmp_path / "target.png").read_bytes() == b"whole"
    assert sorted(os.listdir(tmp_path)) == ["link", "target.png"]
