"""Records that are whole or absent, also on a full disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from owl2_jax.core.append_file import AppendFile, json_line, read_whole_lines, write_lines
from owl2_jax.core.errors import Owl2Error

# Files of this process can grow to 100 bytes; then there is room again.
FULL = """
import resource, sys
from owl2_jax.core.append_file import AppendFile
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.text_files import write_text
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
