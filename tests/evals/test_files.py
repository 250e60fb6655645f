"""Reading published files, and the workbook."""

from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals import files, rows


def test_nested_keys_and_what_was_found_instead(folder):
    path = folder.json("a.json", {"data": {"rows": [1]}, "info": 1})
    assert files.read_json(path, "data", "rows") == [1]
    with pytest.raises(Owl2Error, match=r"has no key 'rows' \(found: data, info\)"):
        files.read_json(path, "rows")
    with pytest.raises(Owl2Error, match=r"has no key 'a' \(found: list\)"):
        files.read_json(path, "data", "rows", "a")


def test_rows_of_another_kind_are_named():
    values = [{"a": 1}, 5]
    read = list(rows.parse_rows("f.json", values, lambda row: row["a"]))
    assert read[0] == 1
    assert str(read[1]).startswith("f.json, row 1 is malformed")
    read = list(rows.parse_rows("f.json", values, lambda row: row["b"]))
    assert str(read[0]) == "f.json, row 0 has no 'b'"
