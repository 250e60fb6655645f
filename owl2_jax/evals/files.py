"""Reading the files that the authors of a benchmark publish.

Nothing is downloaded. A file that is missing, cut off or of another shape is an
error that names the file, where it comes from and where it belongs.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from owl2_jax.core.errors import Owl2Error

Row = TypeVar("Row")
Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class DataFile:
    """A file or folder under `--data-root`, and who publishes it.

    Attributes:
      path: Relative to the data root.
      source: The page that offers it.
    """

    path: str
    source: str

    def require(self, root: Path) -> Path:
        """The full path; raises `Owl2Error` when nothing is there."""
        full = Path(root) / self.path
        if not full.exists():
            raise Owl2Error(
                f"{full} is missing. Get {Path(self.path).name} from {self.source} "
                f"and put it at {self.path} under --data-root"
            )
        return full


def read_text(path: Path) -> str:
    """A file of UTF-8, with or without a byte-order mark. Raises `Owl2Error`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Owl2Error(f"{path} is no text ({error}); is the download complete?") from error
    except OSError as error:
        raise Owl2Error(f"{path} cannot be read: {error.strerror}") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text, broken at line feeds alone: U+2028 and the like may stand in a line."""
    return read_text(path).split("\n")


def read_json(path: Path, *keys: str) -> Any:
    """The value of a JSON file, or of the nested `keys` in it."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise Owl2Error(f"{path} is not valid JSON ({error}); is the download complete?") from error
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            found = (
                ", ".join(map(str, list(value)[:6])) if isinstance(value, Mapping) else type(value).__name__
            )
            raise Owl2Error(f"{path} has no key {key!r} (found: {found}); is it the file of this benchmark?")
        value = value[key]
    return value


def read_rows(path: Path, *keys: str) -> list[Any]:
    """As `read_json`, where the value must be a list."""
    return _of_kind(path, read_json(path, *keys), list, "a list of rows", keys)


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """As `read_json`, where the value must be an object."""
    return _of_kind(path, read_json(path, *keys), dict, "an object", keys)


def _of_kind(path: Path, value: Any, kind: type, expected: str, keys: tuple[str, ...]) -> Any:
    if not isinstance(value, kind):
        where = "".join(f" under {key!r}" for key in keys)
        raise Owl2Error(f"{path} holds a {type(value).__name__}{where}; expected {expected}")
    return value


def read_json_lines(path: Path) -> list[Any]:
    """The values of a file with one JSON value a line; empty lines are left out."""
    values = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise Owl2Error(f"{path}, line {number} is not valid JSON ({error})") from error
    return values


def read_table(path: Path, delimiter: str = "\t", columns: Iterable[str] = ()) -> list[dict[str, str]]:
    """Rows of a delimited text file with a header line.

    Raises:
      Owl2Error: A column of `columns` is missing, or a row is longer than the header.
    """
    with _csv_file(path) as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        found = reader.fieldnames or ()
        missing = [column for column in columns if column not in found]
        if missing:
            names = ", ".join(found)[:200] or "none"
            raise Owl2Error(f"{path} has no column {missing[0]!r}; its columns are {names}")
        rows = list(reader)
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise Owl2Error(f"{path}, row {number} has another number of fields than the header")
    return rows


def read_plain_csv(path: Path, width: int) -> list[list[str]]:
    """Rows of a comma-separated file without a header, `width` fields each."""
    with _csv_file(path) as file:
        rows = [row for row in csv.reader(file) if row]
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise Owl2Error(f"{path}, row {number} has {len(row)} fields; expected {width}")
    return rows


@contextmanager
def _csv_file(path: Path) -> Iterator[TextIO]:
    """A file for the `csv` module, whose faults come out as `Owl2Error`."""
    csv.field_size_limit(sys.maxsize)  # a picture in base64 is one field
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except (UnicodeDecodeError, csv.Error) as error:
        raise Owl2Error(f"{path} is no table of text ({error}); is the download complete?") from error


def read_parquet(path: Path, columns: Iterable[str]) -> list[dict[str, Any]]:
    """Rows of a Parquet file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise Owl2Error(
            f"{path} needs pyarrow; install the extra: pip install 'owl2_jax[parquet]'"
        ) from error

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise Owl2Error(f"{path} is not a readable Parquet file ({error})") from error
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise Owl2Error(
            f"{path} has no column {missing[0]!r}; its columns are {', '.join(table.column_names)}"
        )
    return table.to_pylist()


def parse_rows(path: Path, rows: Iterable[Row], parse: Callable[[Row], Parsed | None]) -> Iterator[Parsed]:
    """Applies `parse` to every row and leaves out None.

    A row that lacks a key or holds a value of another kind becomes an error
    that names the file and the row, counted from 0.
    """
    for index, row in enumerate(rows):
        try:
            parsed = parse(row)
        except Owl2Error:
            raise
        except KeyError as error:
            raise Owl2Error(f"{path}, row {index} has no {error.args[0]!r}") from error
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise Owl2Error(f"{path}, row {index} is malformed: {error}") from error
        if parsed is not None:
            yield parsed
