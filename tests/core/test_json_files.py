from __future__ import annotations

import pytest

from owl2_jax.core import json_files
from owl2_jax.core.errors import Owl2Error


def test_a_byte_order_mark_is_skipped_and_line_separators_stay_in_their_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "x\xe2\x80\xa8y\xc2\x85z"}\r\n  \n{"a": 2}\n')
    assert list(json_files.json_lines(path)) == [(1, {"a": "x\u2028y\u0085z"}), (3, {"a": 2})]


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
        json_files.read_json(path)
    assert str(path) in str(caught.value)
