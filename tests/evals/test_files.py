"""Reading published files, and the workbook."""

from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals import files


def test_nested_keys_and_what_was_found_instead(folder):
    path = folder.json("a.json", {"data": {"rows": [1]}, "info": 1})
    assert files.read_json(path, "data", "rows") == [1]
    with pytest.raises(Owl2Error, match=r"has no key 'rows' \(found: data, info\)"):
        files.read_json(path, "rows")
    with pytest.raises(Owl2Error, match=r"has no key 'a' \(found: list\)"):
        files.read_json(path, "data", "rows", "a")


def test_tables_keep_quoted_line_breaks_and_long_fields(folder):
    path = folder.text("a.tsv", 'index\timage\n1\t"two\nlines"\n2\t' + "A" * 200_000 + "\n")
    rows = files.read_table(path, "\t", ["index"])
    assert rows[0]["image"] == "two\nlines"
    assert len(rows[1]["image"]) == 200_000


def test_rows_of_another_kind_are_named():
    rows = [{"a": 1}, 5]
    with pytest.raises(Owl2Error, match=r"f\.json, row 1 is malformed"):
        list(files.parse_rows("f.json", rows, lambda row: row["a"]))
    with pytest.raises(Owl2Error, match=r"f\.json, row 0 has no 'b'"):
        list(files.parse_rows("f.json", rows, lambda row: row["b"]))
