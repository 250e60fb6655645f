"""Records that are whole or absent, also on a full disk."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from owl2_jax.core import buckets
from owl2_jax.core.append_file import AppendFile, close_or_warn, json_line, read_whole_lines, write_lines
from owl2_jax.core.errors import Owl2Error

# Files of this process can grow to 100 bytes; then there is room again.
FULL = """
import resource, sys
from owl2_jax.core.append_file import AppendFile
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_writing import write_text
most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100, most))
with AppendFile(sys.argv[1]) as file:
    for number in range(4):
        try:
            file.write_json({"number": number, "text": "x" * 12})
        except Owl2Error as error:
            print(error)
    try:
        write_text(sys.argv[1] + ".whole", "y" * 200)
    except Owl2Error as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    file.write_json({"number": 9})
"""


def test_a_full_disk_takes_no_part_of_a_record_and_the_file_can_be_written_on(tmp_path):
    path = tmp_path / "deep" / "a.jsonl"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True)
    assert done.stderr == ""
    said = f"no space left while writing {path}; make room and run it again"
    assert done.stdout.splitlines() == [said, said, said.replace(str(path), f"{path}.whole")]
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 1, 9]
    assert os.listdir(path.parent) == ["a.jsonl"]


def test_a_device_that_is_full_is_told_in_one_line():
    with (
        pytest.raises(Owl2Error, match=r"^no space left while writing /dev/full"),
        AppendFile("/dev/full") as file,
    ):
        file.write("x")


def test_a_folder_in_the_way_is_told_in_one_line(tmp_path):
    with pytest.raises(Owl2Error, match="Is a directory"):
        AppendFile(tmp_path)


def test_whole_lines_end_where_a_crash_cut_one_off(tmp_path):
    path = tmp_path / "a.jsonl"
    assert read_whole_lines(path) == []
    write_lines(path, [{"a": "x\u2028y"}, {"a": 2}])
    with path.open("a") as file:
        file.write('{"a": ')
    assert read_whole_lines(path) == [{"a": "x\u2028y"}, {"a": 2}]


def test_half_a_surrogate_pair_is_written_in_ascii():
    assert json_line({"a": "\ud800é"}) == '{"a": "\\ud800\\u00e9"}\n'
    assert json_line({"a": "é"}) == '{"a": "é"}\n'


class Object:
    """An object in a bucket, whose store raises `error` while there is one."""

    def __init__(self):
        self.content, self.error, self.writes = None, None, 0

    def __fspath__(self):
        return "gs://bucket/run/metrics.jsonl"

    __str__ = __fspath__

    def exists(self):
        return self.content is not None

    def read_bytes(self):
        return self.content

    def write_bytes(self, content):
        self.writes += 1
        if self.error is not None:
            raise self.error
        self.content = content


@pytest.fixture
def stored(monkeypatch):
    """(file, object) of records that are written to the bucket at once."""
    monkeypatch.setattr(buckets, "_SECONDS", 0.0)
    monkeypatch.setattr(buckets, "_SHARE", 0)
    content = Object()
    monkeypatch.setattr("owl2_jax.core.append_file.as_path", lambda path: content)
    return AppendFile("gs://bucket/run/metrics.jsonl"), content


AWAY = OSError("503, try again")
AWAY_SAID = "gs://bucket/run/metrics.jsonl: the bucket's store does not answer as it should: 503, try again"


def test_a_store_that_is_away_is_told_once_and_gets_the_records_later(stored, capsys):
    file, content = stored
    file.write("a")
    content.error = AWAY
    file.write("b")
    file.write("c")
    file.flush()
    said = f"warning: {AWAY_SAID}; its last 1 record is in memory, and it is tried again now and then\n"
    assert (content.content, content.writes, capsys.readouterr().err) == (b"a", 4, said)
    content.error = None
    file.flush()
    file.close()
    assert (content.content, content.writes) == (b"abc", 5)
    assert (
        capsys.readouterr().err
        == "warning: gs://bucket/run/metrics.jsonl is whole again: the store answers\n"
    )


def test_a_store_that_is_away_is_asked_again_after_minutes_at_most(stored, monkeypatch):
    file, content = stored
    monkeypatch.setattr(buckets, "_SHARE", 1e9)  # as if the last attempt had taken very long
    content.error = AWAY
    file.write("a")
    assert 0 < file._object._due - time.monotonic() <= buckets._MOST_SECONDS


def test_a_store_that_is_still_away_at_the_end_is_an_error_that_counts_what_is_missing(stored):
    file, content = stored
    content.error = AWAY
    file.write("a")
    file.write("b")
    with pytest.raises(Owl2Error) as caught:
        file.close()
    assert str(caught.value) == f"{AWAY_SAID}; try again later; its last 2 records are missing in it"


@pytest.mark.parametrize("error", [PermissionError("Forbidden"), FileNotFoundError("no bucket")])
def test_a_store_that_refuses_for_good_ends_the_run_and_says_what_is_missing(stored, error):
    file, content = stored
    content.error = error
    with pytest.raises(Owl2Error, match=r"(may not do|not there).*; its last 1 record is missing in it$"):
        file.write("a")


def test_what_is_missing_after_another_error_is_a_warning(stored, capsys):
    file, content = stored
    content.error = AWAY
    with pytest.raises(ZeroDivisionError), file:
        file.write(str([file.write("a"), 1 // 0]))
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"warning: {AWAY_SAID}; try again later; its last 1 record is missing in it"
    )
    close_or_warn(lambda: None)
    assert capsys.readouterr().err == ""


def test_standard_output_is_written_to_whatever_it_is(tmp_path):
    code = (
        "from owl2_jax.core.append_file import AppendFile\nprint('first', flush=True)\n"
        "with AppendFile('/dev/stdout') as file: file.write_json({'a': 1})"
    )
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == 'first\n{"a": 1}\n'
    ours, its = socket.socketpair()
    with ours, its:
        subprocess.run([sys.executable, "-c", code], stdout=its, check=True)
        assert ours.recv(100) == b'first\n{"a": 1}\n'


def test_folders_made_for_a_file_that_cannot_be_made_go_again(tmp_path):
    with pytest.raises(Owl2Error, match="File name too long"):
        AppendFile(tmp_path / "new" / "deep" / ("x" * 300))
    assert list(tmp_path.iterdir()) == []
