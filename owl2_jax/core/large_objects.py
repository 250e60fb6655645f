"""Large files and objects in parts: read from any place, written from begin to end.

Neither needs room on this machine: what is read is in memory alone, and what is
written leaves it piece by piece.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

import numpy as np

from owl2_jax.core.buckets import file_system, told
from owl2_jax.core.paths import in_bucket

_PIECE: Final = 1 << 24  # bytes of one request that reads data
_PART: Final = 1 << 24  # bytes of one that writes
_TOGETHER: Final = 8  # requests under way at a time: one alone reads some 50 MB/s, however fast the network
_AHEAD: Final = 1 << 23  # bytes of one that reads an object in order
_LOOK: Final = 1 << 16  # bytes of one request for what describes the data


def opened(path: str | os.PathLike, in_order: bool = False) -> BinaryIO:
    """A file or an object, to be read from any place.

    Args:
      in_order: nearly all of it will be read, from begin to end: the next part comes meanwhile.

    Raises:
      OSError: a file cannot be read.
      Owl2Error: an object cannot be read.
    """
    if not in_bucket(path):
        return open(path, "rb")
    parts: dict[str, Any] = {"block_size": _LOOK, "cache_type": "readahead"}
    if in_order:
        parts = {"block_size": _AHEAD, "cache_type": "background", "cache_options": {"maxblocks": 4}}
    with told(path):
        found = file_system(path).open(os.fspath(path), "rb", **parts)
        return io.BufferedReader(_Told(path, found), _LOOK)  # type: ignore[return-value]


def read_at(path: str | os.PathLike, offset: int, count: int) -> np.ndarray:
    """Bytes from `offset` on, uint8[at most `count`], in memory of their own.

    Raises:
      OSError: a file cannot be read.
      Owl2Error: an object cannot be read.
    """
    if not in_bucket(path):
        return np.fromfile(path, np.uint8, count, offset=offset)
    values, store = np.empty(count, np.uint8), file_system(path)

    def fetch(start: int) -> int:
        stop = min(start + _PIECE, count)
        try:
            data = store.cat_file(os.fspath(path), start=offset + start, end=offset + stop)
        except OSError as error:
            if error.errno != errno.EINVAL:  # Amazon's store, for what begins behind the end
                raise
            data = b""
        values[start : start + len(data)] = np.frombuffer(data, np.uint8)
        return len(data)

    starts = range(0, count, _PIECE)
    with told(path):
        if len(starts) <= 1:
            lengths = [fetch(start) for start in starts]
        else:
            with ThreadPoolExecutor(_TOGETHER) as threads:
                lengths = list(threads.map(fetch, starts))
    found = sum(lengths)
    return values if found == count else values[:found]


def size_of(path: str | os.PathLike) -> int:
    """Bytes of a file or an object. Raises `OSError`, or `Owl2Error` for a store."""
    if not in_bucket(path):
        return os.stat(path).st_size
    with told(path):
        return int(file_system(path).info(os.fspath(path))["size"])


@contextmanager
def written(path: str | os.PathLike) -> Iterator[ObjectWriter]:
    """An object to write from begin to end; it is there when the block ends without an error.

    Raises:
      Owl2Error: the store does not take it.
    """
    writer = ObjectWriter(path)
    try:
        yield writer
    except BaseException:
        writer.discard()
        raise
    writer.close()


class ObjectWriter:
    """What `written` gives: at most one piece is in memory."""

    def __init__(self, path: str | os.PathLike) -> None:
        self._path = path
        with told(path):
            self._file: Any = file_system(path).open(os.fspath(path), "wb", block_size=_PART)

    def write(self, values: np.ndarray | bytes) -> None:
        """Adds bytes, or the bytes of an array. Raises `Owl2Error`."""
        array = np.frombuffer(values, np.uint8) if isinstance(values, bytes) else values
        data = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        with told(self._path):
            for start in range(0, len(data), _PART):
                self._file.write(data[start : start + _PART])

    def close(self) -> None:
        """Has the object appear. Raises `Owl2Error`."""
        with told(self._path):
            self._file.close()

    def discard(self) -> None:
        """Leaves nothing of the object."""
        try:
            self._file.closed = True  # or it would be sent as it is once nobody holds it
            self._file.discard()
        except Exception:  # the store's own leftovers, which it removes after a week
            return


class _Told(io.RawIOBase):
    """A file of fsspec whose errors are those of `told`."""

    def __init__(self, path: str | os.PathLike, file: Any) -> None:
        self._path, self._file = path, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        with told(self._path):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
