from __future__ import annotations

import pytest

from owl2_jax.core import text_files
from owl2_jax.core.errors import Owl2Error


def test_a_text_is_utf_8_with_or_without_a_byte_order_mark_and_anything_else_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffé\r\nb".encode())
    assert text_files.lines(text_files.read_text(path)) == ["é", "b"]
    path.write_bytes(b"ab\xe9")
    with pytest.raises(Owl2Error, match=r"a\.txt is not UTF-8 text: byte 0xe9 at offset 2; save it as UTF-8"):
        text_files.read_text(path)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer, not the file itself"),
        (b"\xef\xbb\xbf <HTML><p>", "a web page; the download was refused"),
        (b"", "empty"),
        (b"\x89PNG", None),
    ],
)
def test_what_stands_in_place_of_a_file_that_was_never_fetched_is_named(tmp_path, data, found):
    path = tmp_path / "weights.bin"
    path.write_bytes(data)
    said = text_files.not_downloaded(path)
    assert said is None if found is None else said.startswith(found)
