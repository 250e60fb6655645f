"""Files that grow record by record: each is there as a whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from types import TracebackType

from owl2_jax.core.buckets import GrowingObject
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_errors import unreadable, why_not_writable
from owl2_jax.core.file_writing import open_descriptor, write_text
from owl2_jax.core.json_files import Json
from owl2_jax.core.new_folders import with_parents
from owl2_jax.core.paths import as_path, in_bucket
from owl2_jax.core.text_files import BOM, lines


class AppendFile:
    """A file that is written to at its end. A record is in the file when `write` returns.

    What a full disk took of a record is taken back, so the file stays whole and
    can be written on when there is room.

    In a bucket nothing can be appended: there the records are written at intervals
    (`buckets.GrowingObject`), at `flush` and at `close`. A store that is away then is
    no error before `close`.

    Args:
      path: made when missing, with its parents.

    Raises:
      Owl2Error: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = as_path(path)
        self._object = GrowingObject(self.path) if in_bucket(path) else None
        if self._object is not None:
            return
        try:
            descriptor = open_descriptor(self.path)  # of /dev/stdout, which may be a socket
            with with_parents(self.path):
                self._file = (
                    self.path.open("ab", buffering=0)
                    if descriptor is None
                    else os.fdopen(os.dup(descriptor), "wb", buffering=0)
                )
        except OSError as error:
            raise Owl2Error(why_not_writable(self.path, error)) from error

    def write(self, record: bytes | str) -> None:
        """Appends one record. Raises `Owl2Error` when it does not fit; the file is then as before."""
        rest = memoryview(record.encode() if isinstance(record, str) else record)
        if self._object is not None:
            self._object.write(rest)
            return
        try:
            before = os.fstat(self._file.fileno()).st_size
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(before)
                raise
        except OSError as error:
            raise Owl2Error(why_not_writable(self.path, error)) from error

    def write_json(self, value: Json) -> None:
        """Appends the JSON of a value as one line."""
        self.write(json_line(value))

    def flush(self) -> None:
        """Has all records so far where a reader meets them, unless a store is away. Raises `Owl2Error`."""
        if self._object is not None:
            self._object.flush()

    def fileno(self) -> int:
        """The descriptor, for a process that writes to the same file."""
        return self._file.fileno()

    def close(self) -> None:
        """Raises `Owl2Error` when a disk on the network only now finds that it is full."""
        if self._object is not None:
            self._object.close()
            return
        try:
            self._file.close()
        except OSError as error:
            raise Owl2Error(why_not_writable(self.path, error)) from error

    def __enter__(self) -> AppendFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        close_or_warn(self.close)


def close_or_warn(close: Callable[[], None]) -> None:
    """Closes a file where what it lacks ends nothing: an error that is under way says more."""
    try:
        close()
    except Owl2Error as error:
        print(f"warning: {error}", file=sys.stderr, flush=True)


def json_line(value: Json) -> str:
    """The JSON of a value as a line; half a surrogate pair, which is no UTF-8, makes it ASCII."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value)
    return text + "\n"


def read_whole_lines(path: str | os.PathLike) -> list[Json]:
    """The JSON values of a file's lines up to the first that was cut off by a crash; none without a file.

    Blank lines are passed over.

    Raises:
      Owl2Error: the file is there and cannot be read.
    """
    try:
        data = as_path(path).read_bytes()
    except FileNotFoundError:
        return []
    except Exception as error:
        raise unreadable(path, error) from error
    values = []
    for line in lines(data.removeprefix(BOM).decode("utf-8", errors="replace")):
        if not line.strip():
            continue
        try:
            values.append(json.loads(line))
        except ValueError:
            break
    return values


def write_lines(path: str | os.PathLike, values: list[Json]) -> None:
    """Replaces a file by one with the JSON of a value on each line."""
    write_text(path, "".join(map(json_line, values)))
