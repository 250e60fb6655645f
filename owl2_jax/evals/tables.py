"""Tables of published files: delimited text, and Parquet."""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_errors import why_not_readable
from owl2_jax.core.large_objects import opened
from owl2_jax.core.text_files import what_instead
from owl2_jax.evals.broken import At, Broken


def read_table(
    path: Path, delimiter: str = "\t", columns: Iterable[str] = ()
) -> list[At[dict[str, str]] | Broken]:
    """Rows of a delimited text file with a header line, which is row 1.

    Raises:
      Owl2Error: the file cannot be read, or a column of `columns` is missing.
    """
    with _text(path) as file:
        source = _Records(file, delimiter)
        header = next(source, [])
        if not isinstance(header, list):
            raise Owl2Error(f"{path} has no header that can be read: {header}")
        missing = [column for column in columns if column not in header]
        if missing:
            names = " ".join(", ".join(header).split())[:200] or "none"
            raise Owl2Error(f"{path} has no column {missing[0]!r}; its columns are {names}")
        return [
            At(row.place, dict(zip(header, row.value, strict=True))) if isinstance(row, At) else row
            for row in _of_width(path, source, len(header), first=2)
        ]


def read_plain_csv(path: Path, width: int) -> list[At[list[str]] | Broken]:
    """Rows of a comma-separated file without a header, `width` fields each. Raises `Owl2Error`."""
    with _text(path) as file:
        return list(_of_width(path, _Records(file, ","), width, first=1))


def _of_width(path: Path, source: _Records, width: int, first: int) -> Iterator[At[list[str]] | Broken]:
    """Rows with their places; those of another number of fields are broken, empty lines are none."""
    number = first
    for row in source:
        if row == []:
            continue
        place = f"row {number}"
        number += 1
        if isinstance(row, list) and len(row) == width:
            yield At(place, row)
            continue
        source.go_back()
        if isinstance(row, list):
            why = f"has another number of fields ({len(row)}) than expected ({width})"
        else:
            why = f"is malformed: {row}; is there a quotation mark that nothing closes?"
        yield Broken(str(path), place, why)


class _Records:
    """Rows of the `csv` module that can take back all lines of the last row but its first.

    A quotation mark that nothing closes swallows the lines after it; they are
    rows of their own when the swollen one turns out to be broken.
    """

    def __init__(self, file: TextIO, delimiter: str):
        self._file, self._delimiter = file, delimiter
        self._again: deque[str] = deque()
        self._taken: list[str] = []
        self._reader = self._new_reader()

    def __iter__(self) -> _Records:
        return self

    def __next__(self) -> list[str] | csv.Error:
        self._taken = []
        try:
            return next(self._reader)
        except csv.Error as error:
            return error

    def go_back(self) -> None:
        """The lines of the last row but its first are read again."""
        self._again.extendleft(reversed(self._taken[1:]))
        self._taken = []
        self._reader = self._new_reader()

    def _new_reader(self) -> Iterator[list[str]]:
        return csv.reader(self._lines(), delimiter=self._delimiter, strict=True)

    def _lines(self) -> Iterator[str]:
        while line := self._again.popleft() if self._again else next(self._file, ""):
            self._taken.append(line)
            yield line


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    """A file for the `csv` module, whose faults come out as `Owl2Error`."""
    csv.field_size_limit(sys.maxsize)  # an image in base64 is one field
    try:
        with opened(path) as data:
            wrong = what_instead(data.read(256))
            if wrong:
                raise Owl2Error(f"{path} is {wrong}")
            data.seek(0)
            yield TextIOWrapper(data, encoding="utf-8-sig", newline="")
    except OSError as error:
        raise Owl2Error(why_not_readable(path, error)) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise Owl2Error(f"{path} is no table of text ({error}); is the download complete?") from error


def read_parquet(path: Path, columns: Iterable[str]) -> list[dict[str, Any]]:
    """Rows of a Parquet file. Raises `Owl2Error`: not readable, or without one of `columns`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise Owl2Error(
            f"{path} needs pyarrow; install the extra: pip install 'owl2_jax[parquet]'"
        ) from error

    try:
        with opened(path) as file:
            wrong = what_instead(file.read(256))
            if wrong:
                raise Owl2Error(f"{path} is {wrong}")
            file.seek(0)
            table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise Owl2Error(why_not_readable(path, error)) from error
        reason = " ".join(str(error).split())
        raise Owl2Error(f"{path} is not a readable Parquet file ({reason})") from error
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise Owl2Error(
            f"{path} has no column {missing[0]!r}; its columns are {', '.join(table.column_names)}"
        )
    return table.to_pylist()
