"""ArrayRecord files in buckets: their records by ranges, without a copy of the files.

ArrayRecord's own reader wants a file of this machine. Its format is Riegeli's, and of that
the little which single records need is read here:

    | chunk | chunk | ... | footer chunk | postscript, the last 64 KiB |

    chunk       header of 40 bytes (sizes, kind, number of records), then its records
    footer      a chunk whose records tell where each of the others begins
    postscript  a chunk whose records tell where the footer begins

Every 64 KiB of the file begin with 24 bytes that belong to no chunk.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from owl2_jax.core.buckets import size_and_version
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.large_objects import read_at
from owl2_jax.core.paths import as_path
from owl2_jax.core.text_files import what_was_downloaded
from owl2_jax.data.bucket_reads import TOGETHER, read_range

_BLOCK: Final = 1 << 16
_BLOCK_HEADER: Final = 24
_CHUNK_HEADER: Final = 40
_SIMPLE: Final = ord("r")
_MAGIC: Final = 0x71930E704FDAE05E
_CODECS: Final = {ord("z"): "zstd", ord("b"): "brotli"}  # as pyarrow calls them
_REMEDY: Final = "write it uncompressed, as `owl2 data prepare` does, or copy it to the disk"


@dataclass(frozen=True)
class _File:
    """An object and where its chunks lie.

    Attributes:
      borders: int64[chunks + 1], where each begins and the last ends.
      first: int64[chunks + 1], number of the first record of each, and of all records.
    """

    url: str
    version: str
    borders: np.ndarray
    first: np.ndarray


class ArrayRecordRanges(Sequence[bytes]):
    """The records of ArrayRecord files in a bucket, in the files' order.

    Raises:
      Owl2Error: one is not there, no ArrayRecord file, or written in a way that cannot be read by ranges.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        with ThreadPoolExecutor(TOGETHER) as threads:
            self._files = list(threads.map(_look, urls))
        self._ends = np.cumsum([file.first[-1] for file in self._files], dtype=np.int64).tolist()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        """A record. Raises `Owl2Error`, and `ValueError` for a damaged one."""
        number = bisect.bisect_right(self._ends, index)
        return self.record(number, index - (self._ends[number - 1] if number else 0))

    def record(self, number: int, index: int) -> bytes:
        """Record `index` of file `number`. Raises as `__getitem__`."""
        file = self._files[number]
        chunk = int(np.searchsorted(file.first, index, side="right")) - 1
        start, stop = int(file.borders[chunk]), int(file.borders[chunk + 1])
        data = read_range(file.url, file.version, start, stop - start)
        if len(data) != stop - start:
            raise ValueError(f"found {len(data)} of {stop - start} bytes")
        return _records(data, start)[index - int(file.first[chunk])]


def _look(url: str) -> _File:
    size, version = size_and_version(as_path(url))
    if size == 0:
        raise Owl2Error(f"{url} is empty; expected an ArrayRecord file, was its writing interrupted?")
    start = max(0, size - 2 * _BLOCK)  # most footers lie there, too
    end = read_at(url, start, size - start).tobytes()
    try:
        borders, counts = _chunks(url, size, end)
    except Owl2Error as error:
        raise Owl2Error(f"{url}: {error}") from error
    except (ValueError, IndexError, struct.error) as error:
        wrong = what_was_downloaded(end[:256]) if start == 0 else None
        raise Owl2Error(
            f"{url} is {wrong}" if wrong else f"cannot open {url} as ArrayRecord: {error}"
        ) from error
    return _File(url, version, borders, np.cumsum([0, *counts], dtype=np.int64))


def _chunks(url: str, size: int, end: bytes) -> tuple[np.ndarray, list[int]]:
    """(where chunks begin and the last one ends, their numbers of records)."""
    if size < _BLOCK:
        raise ValueError(f"it has {size} bytes, expected 65,536 at least")
    postscript = _fields(_records(end[-_BLOCK:], size - _BLOCK)[0])
    if postscript.get(2) != _MAGIC:
        raise ValueError("its last 64 KiB are not those of such a file")
    footer = int(postscript[1])
    before = size - len(end)
    data = end[footer - before : -_BLOCK] if footer >= before else _between(url, footer, size - _BLOCK)
    about, *chunks = map(_fields, _records(data, footer))
    if not isinstance(about.get(1), bytes):
        raise ValueError("its footer does not describe it")
    if b"transpose:true" in _fields(about[1]).get(4, b""):  # type: ignore[operator, arg-type]
        raise Owl2Error(f"its records are transposed, which cannot be read in a bucket; {_REMEDY}")
    borders = [int(chunk[1]) for chunk in chunks] + [footer]
    return np.array(borders, np.int64), [int(chunk.get(3, 0)) for chunk in chunks]


def _between(url: str, start: int, stop: int) -> bytes:
    return read_at(url, start, stop - start).tobytes()


def _records(data: bytes, begin: int) -> list[bytes]:
    """The records of the chunk that begins at byte `begin` of its file, whose bytes from there on are `data`.

    Raises:
      ValueError: it is damaged.
      Owl2Error: it is of a kind that is not read here.
    """
    bare = b"".join(_without_block_headers(data, begin))
    if len(bare) < _CHUNK_HEADER:
        raise ValueError("a chunk is cut off")
    size, kind = struct.unpack_from("<Q", bare, 8)[0], bare[24]
    count = int.from_bytes(bare[25:32], "little")
    content = memoryview(bare)[_CHUNK_HEADER : _CHUNK_HEADER + size]
    if kind != _SIMPLE or len(content) != size or not size:
        raise ValueError("a chunk is damaged")
    length, place = _varint(content, 1)
    sizes = _unpacked(content[0], content[place : place + length])
    values = _unpacked(content[0], content[place + length :])
    records, at, place = [], 0, 0
    for _ in range(count):
        length, place = _varint(sizes, place)
        records.append(bytes(values[at : at + length]))
        at += length
    if at != len(values):
        raise ValueError("a chunk's records are damaged")
    return records


def _without_block_headers(data: bytes, begin: int) -> Iterator[memoryview]:
    view, place, end = memoryview(data), begin, begin + len(data)
    while place < end:
        if place % _BLOCK == 0:
            place += _BLOCK_HEADER
        stop = min(place // _BLOCK * _BLOCK + _BLOCK, end)
        yield view[place - begin : stop - begin]
        place = stop


def _unpacked(kind: int, data: memoryview) -> memoryview:
    if kind == 0:
        return data
    codec = _CODECS.get(kind)
    if codec is None:
        raise Owl2Error(f"it is compressed by {chr(kind)!r}, which cannot be read in a bucket; {_REMEDY}")
    try:
        import pyarrow
    except ImportError as error:
        raise Owl2Error(
            f"it is compressed ({codec}), which needs pyarrow in a bucket; install it with: "
            f'pip install "owl2_jax[parquet]", or {_REMEDY}'
        ) from error
    size, place = _varint(data, 0)
    return memoryview(pyarrow.decompress(data[place:], size, codec, asbytes=True) if size else b"")


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """(the number, the place behind it)."""
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7


def _fields(message: bytes) -> dict[int, int | bytes]:
    """{number: value} of a message of protocol buffers with numbers and nested messages."""
    view, place, found = memoryview(message), 0, {}
    while place < len(view):
        key, place = _varint(view, place)
        value, place = _varint(view, place)
        if key & 7 == 2:
            found[key >> 3] = bytes(view[place : place + value])
            place += value
        else:
            found[key >> 3] = value
    return found
