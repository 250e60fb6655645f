from __future__ import annotations

import zipfile
from xml.etree import ElementTree

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
        "two\nlines\r\n",
        "<b>&amp;",
        " spaced ",
        "nan",
        "half  a character",
        "zero",
        "7",
    ]
