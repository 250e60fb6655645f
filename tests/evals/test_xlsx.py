from __future__ import annotations

import zipfile
from xml.etree import ElementTree

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.xlsx import write_xlsx


def test_every_text_of_a_cell_comes_back(tmp_path):
    row = [
        "=1+1",
        "two\nlines\r\n",
        "<b>&amp;",
        " spaced ",
        "nan",
        "half \ud800 a character",
        "zero\x00",
        7,
        None,
    ]
    write_xlsx(tmp_path / "a.xlsx", [row])
    tree = ElementTree.fromstring(zipfile.ZipFile(tmp_path / "a.xlsx").read("xl/worksheets/sheet1.xml"))
    cells = [text.text for text in tree.iter() if text.tag.endswith(("}t", "}v"))]
    assert cells == [
        "=1+1",
        "two\nlines\n",
        "<b>&amp;",
        " spaced ",
        "nan",
        "half  a character",
        "zero",
        "7",
    ]


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_xlsx(tmp_path / f"{name}.xlsx", [["x", 1, None], ["=y"]])
    assert (tmp_path / "a.xlsx").read_bytes() == (tmp_path / "b.xlsx").read_bytes()


def test_a_text_that_no_cell_holds_is_refused(tmp_path):
    write_xlsx(tmp_path / "a.xlsx", [["x" * 32_767]])
    with pytest.raises(Owl2Error, match=r"row 2: a text of 32,768 characters; a cell .* holds 32,767"):
        write_xlsx(tmp_path / "b.xlsx", [[], ["x" * 32_768]])
    assert not (tmp_path / "b.xlsx").exists()
