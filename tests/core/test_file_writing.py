from __future__ import annotations

import os
import subprocess
import sys

import pytest

from owl2_jax.core import file_errors, file_writing, json_files
from owl2_jax.core.errors import Owl2Error


def test_a_written_file_is_whole_or_as_before(tmp_path):
    path = tmp_path / "new" / "a.json"
    json_files.write_json(path, {"a": 1})
    assert json_files.read_json_object(path) == {"a": 1}
    with pytest.raises(UnicodeEncodeError):
        file_writing.write_text(path, "\ud800")
    assert json_files.read_json(path) == {"a": 1}
    assert os.listdir(path.parent) == ["a.json"]


def test_why_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Owl2Error, match="is a file, not a folder"):
        file_writing.write_text(tmp_path / "file" / "a.json", "")
    assert "no space left" in file_errors.why_not_writable("a", OSError(28, "No space left on device"))
    assert "by this user" in file_errors.why_not_writable("a", PermissionError(13, "Permission denied"))


def test_a_folder_that_cannot_be_written_is_told_before_any_work_and_nothing_is_made(tmp_path, monkeypatch):
    file_writing.check_folder(tmp_path / "new" / "folder", "--workdir")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(
        Owl2Error, match=r"^--workdir .*file/x cannot be made: .*file is a file, not a folder$"
    ):
        file_writing.check_folder(tmp_path / "file" / "x", "--workdir")
    with pytest.raises(Owl2Error, match=r"is a folder, expected the name of a file"):
        file_writing.check_file(tmp_path, "--output")

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.touch", forbidden)
    with pytest.raises(Owl2Error, match=r"--output .* cannot be written by this user \(Permission denied\)"):
        file_writing.check_folder(tmp_path, "--output")


def test_a_new_file_appears_whole_behind_a_link_too_or_not_at_all(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target.png")
    with file_writing.new_file(tmp_path / "link") as part:
        assert part.suffix == ".png"
        part.write_bytes(b"whole")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target.png").read_bytes() == b"whole"
    with pytest.raises(ZeroDivisionError), file_writing.new_file(tmp_path / "target.png") as part:
        part.write_bytes(b"half" * (1 // 0))
    assert (tmp_path / "target.png").read_bytes() == b"whole"
    assert sorted(os.listdir(tmp_path)) == ["link", "target.png"]


@pytest.mark.parametrize("way", ["pipe", "file", "appended"])
@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "link"])
def test_what_goes_to_the_standard_output_stands_between_what_is_printed(tmp_path, name, way):
    if name == "link":
        (tmp_path / "link").symlink_to("/dev/stdout")
        name = str(tmp_path / "link")
    code = (
        "import sys; from owl2_jax.core.file_writing import check_file, write_text\n"
        "check_file(sys.argv[1], '--output')\n"
        "print('before')\nwrite_text(sys.argv[1], 'written\\n')\nprint('after')"
    )
    if way == "pipe":
        said = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True)
        assert (said.stdout, said.stderr) == ("before\nwritten\nafter\n", "")
        return
    (tmp_path / "out").write_text("old\n")
    with (tmp_path / "out").open("a" if way == "appended" else "w") as out:
        assert subprocess.run([sys.executable, "-c", code, name], stdout=out).returncode == 0
    old = "old\n" if way == "appended" else ""
    assert (tmp_path / "out").read_text() == f"{old}before\nwritten\nafter\n"


def test_a_pipe_by_name_is_written_itself_and_a_descriptor_that_is_not_open_is_told_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    file_writing.write_text(tmp_path / "pipe", "x")
    assert os.read(reader, 9) == b"x"
    os.close(reader)
    with pytest.raises(Owl2Error, match=r"--output /dev/fd/999 cannot be written: Bad file descriptor"):
        file_writing.check_file("/dev/fd/999", "--output")


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444])
def test_a_replaced_file_keeps_its_permissions(tmp_path, mode):
    (tmp_path / "a").touch()
    (tmp_path / "a").chmod(mode)
    file_writing.write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode
    assert (tmp_path / "a").read_text() == "new"


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "other").touch()
    file_writing.write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "other").stat().st_mode
