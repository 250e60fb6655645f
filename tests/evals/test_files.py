"""Reading published files, and the workbook."""

from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals import files, rows

FILE = files.DataFile("pope/coco.json", "example.org")


def test_a_file_that_is_not_there_is_told_with_where_it_may_be(folder):
    def message(root=folder.root):
        with pytest.raises(Owl2Error) as caught:
            FILE.require(root)
        return str(caught.value)

    assert message(folder.root / "no") == (
        f"{folder.root}/no/pope/coco.json is missing. Get coco.json from example.org and put it at "
        f"pope/coco.json under --data-root (the data root {folder.root}/no is missing itself)"
    )
    assert "is a file, not a folder" in message(folder.text("file", ""))
    folder.text("pope/Coco.json", "")
    assert message().endswith("under --data-root (there is Coco.json beside it)")
    folder.text("elsewhere/coco.json", "")
    assert message().endswith(f"under --data-root (there is {folder.root}/elsewhere/coco.json)")


def test_a_file_that_may_not_be_read_is_not_missing(folder, monkeypatch):
    path = folder.text(FILE.path, "")
    assert FILE.require(folder.root) == path
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    with pytest.raises(Owl2Error, match="is there, but this user may not read it"):
        FILE.require(folder.root)


def test_json_lines_are_read_line_by_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes('\ufeff{"a": "one\u2028line"}\r\n  \n{cut\n[1]'.encode())
    first, broken, last = files.read_json_lines(path)
    assert (first.place, first.value) == ("line 1", {"a": "one\u2028line"})
    assert str(broken).startswith(f"{path}, line 3 is not valid JSON")
    assert (last.place, last.value) == ("line 4", [1])
    path.write_bytes("{}".encode("utf-16"))
    with pytest.raises(Owl2Error, match="is UTF-16"):
        files.read_json_lines(path)


def test_nested_keys_and_what_was_found_instead(folder):
    path = folder.json("a.json", {"data": {"rows": [1]}, "info": 1})
    assert files.read_json(path, "data", "rows") == [1]
    with pytest.raises(Owl2Error, match=r"has no key 'rows' \(found: data, info\)"):
        files.read_json(path, "rows")
    with pytest.raises(Owl2Error, match=r"has no key 'a' \(found: a list\)"):
        files.read_json(path, "data", "rows", "a")


def test_rows_of_another_kind_are_named():
    values = [{"a": 1}, 5]
    read = list(rows.parse_rows("f.json", values, lambda row: row["a"]))
    assert read[0] == 1
    assert str(read[1]).startswith("f.json, row 1 is malformed")
    read = list(rows.parse_rows("f.json", values, lambda row: row["b"]))
    assert str(read[0]) == "f.json, row 0 has no 'b'"
