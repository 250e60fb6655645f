"""Workbooks that scoring servers read: one sheet of text and whole numbers, written by XlsxWriter."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import xlsxwriter

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_writing import new_file

LONGEST_CELL: Final = 32_767  # characters, the format's limit

# XML has no way to write these characters at all.
_FORBIDDEN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def write_xlsx(path: Path, rows: Iterable[Sequence[str | int | None]]) -> None:
    """Writes rows of text, whole numbers and empty cells (None), the same bytes each time.

    Characters that XML cannot hold are left out, and every line ends in a line feed, since readers
    other than Excel show the format's sign for a carriage return.

    Raises:
      Owl2Error: a text longer than a cell can hold, or the disk is full or the file cannot be written.
    """
    with new_file(path) as part, xlsxwriter.Workbook(part, {"constant_memory": True}) as book:
        # Without it the bytes would change with the clock.
        book.set_properties({"created": datetime.datetime(2000, 1, 1)})
        sheet = book.add_worksheet()
        for number, row in enumerate(rows):
            for column, value in enumerate(row):
                if isinstance(value, str):
                    sheet.write_string(number, column, _cell(value, path, number))
                elif value is not None:
                    sheet.write_number(number, column, value)


def _cell(value: str, path: Path, row: int) -> str:
    text = _FORBIDDEN.sub("", re.sub("\r\n?", "\n", value))
    if len(text) > LONGEST_CELL:
        raise Owl2Error(
            f"{path}, row {row + 1}: a text of {len(text):,} characters; a cell of this format holds "
            f"{LONGEST_CELL:,} at most"
        )
    return text
