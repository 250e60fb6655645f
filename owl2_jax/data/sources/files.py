"""Files that sources are made of: lists of shards, slices, JSON and where its records lie."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence

import numpy as np

from owl2_jax.core import file_errors, json_files, text_files
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.paths import in_bucket
from owl2_jax.data.sources.base import RecordError
from owl2_jax.data.sources.bucket_files import matching_objects

CHUNK = 1 << 24

_BLANKS = tuple(b" \t\r\v\f" + text_files.BOM[:1])
_QUOTE, _BACKSLASH, _COMMA, _NEWLINE = b'"\\,\n'
# What each byte does to the structure of a JSON text; most do nothing (0).
_OPENS, _CLOSES, _SEPARATES, _QUOTES = 1, 2, 3, 4
_ROLE = bytes.maketrans(
    bytes(range(256)),
    bytes(
        _OPENS if byte in b"[{"
        else _CLOSES if byte in b"]}"
        else _SEPARATES if byte == _COMMA
        else _QUOTES if byte == _QUOTE
        else 0
        for byte in range(256)
    ),
)  # fmt: skip
_STEP = np.array([0, 1, -1, 0, 0], np.int8)


def expand_paths(paths: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    """Lists the files that names, `*` patterns and ranges such as `{000..099}` stand for.

    The files of one pattern come sorted, the patterns in their order.

    Raises:
      Owl2Error: A pattern matches no file.
    """
    patterns = [paths] if isinstance(paths, str | os.PathLike) else paths
    found: list[str] = []
    for pattern in patterns:
        for name in _expand_range(os.fspath(pattern)):
            if in_bucket(name):
                files = matching_objects(name)
            elif os.path.isfile(name):
                files = [name]
            else:
                files = sorted(filter(os.path.isfile, glob.glob(name)))
            if not files:
                raise Owl2Error(f"no file matches {name!r}; check the path in the config")
            found += files
    if not found:
        raise Owl2Error("a source was given an empty list of files; name at least one")
    return found


def all_in_bucket(paths: Sequence[str]) -> bool:
    """Whether files lie in a bucket. Raises `Owl2Error` where some do and others do not."""
    inside = [in_bucket(path) for path in paths]
    if any(inside) and not all(inside):
        there, here = paths[inside.index(True)], paths[inside.index(False)]
        raise Owl2Error(
            f"one set has files in a bucket and on this machine ({there}, {here}); make two of it"
        )
    return all(inside)


def read_slice(path: str, offset: int, size: int) -> bytes:
    """Reads `size` bytes at `offset`, of a file of this machine.

    The file is opened again each time: sources are used by many threads and
    sent to other processes, and beside decoding an image an open is free.
    """
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        return file.read(size)


def parse_record(data: bytes, source: str, index: int) -> dict:
    """Parses one JSON object.

    Raises:
      RecordError: `corrupt_record`: it is no JSON, no object, or has a key twice.
    """
    try:
        record = json_files.parse_json(data, "the record", one_of_each_key=True)
    except Owl2Error as error:
        raise RecordError(source, index, "corrupt_record", f"{error}") from error
    if not isinstance(record, dict):
        kind = json_files.json_kind(record)
        raise RecordError(source, index, "corrupt_record", f"found {kind}, expected an object")
    return record


def index_json(path: str | os.PathLike) -> np.ndarray:
    """Finds the records of a JSON array, or of a file with one JSON object per line.

    The records are not parsed, and memory does not grow with the file.

    Returns:
      `int64[n, 2]`: start and end of each record in bytes.

    Raises:
      Owl2Error: The file is missing, empty or something else, or its array does not close.
    """
    first = _first_byte(path)
    if not first:
        raise Owl2Error(f"{path} is empty; expected a JSON array, or one JSON object per line")
    return _index_array(path) if first == b"[" else _index_lines(path)


def contains(path: str | os.PathLike, needles: Sequence[bytes]) -> list[bool]:
    """Says which of `needles` occur in a file."""
    found = [False] * len(needles)
    overlap = max(map(len, needles)) - 1
    text = b""
    for chunk in _chunks(path):
        text = text[-overlap:] + chunk
        found = [before or needle in text for before, needle in zip(found, needles, strict=True)]
    return found


def _expand_range(pattern: str) -> Iterator[str]:
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not match:
        yield pattern
        return
    first, last = match[1], match[2]
    for number in range(int(first), int(last) + 1):
        yield from _expand_range(
            pattern[: match.start()] + f"{number:0{len(first)}d}" + pattern[match.end() :]
        )


def _first_byte(path: str | os.PathLike) -> bytes:
    """The first byte that is no blank. Raises `Owl2Error` where the file is something else than JSON."""
    try:
        with open(path, "rb") as file:
            start = file.read(4096)
            wrong = text_files.what_instead(start)
            if wrong is None and text_files.is_web_page(start):
                wrong = "a web page; the download was refused, fetch the file again"
            if wrong:
                raise Owl2Error(f"{path} is {wrong}")
            text = start.removeprefix(text_files.BOM)
            while start and not text.lstrip():
                text = start = file.read(4096)
            return text.lstrip()[:1]
    except OSError as error:
        raise Owl2Error(file_errors.why_not_readable(path, error)) from error


def _chunks(path: str | os.PathLike) -> Iterator[bytes]:
    """Yields the file in pieces that end in no backslash, so that no escape is torn."""
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            while chunk.endswith(b"\\") and (more := file.read(1)):
                chunk += more
            yield chunk


def _index_lines(path: str | os.PathLike) -> np.ndarray:
    ends, firsts, offset, carried = [], [], 0, _NEWLINE
    for chunk in _chunks(path):
        data = np.frombuffer(chunk, np.uint8)
        breaks = data == _NEWLINE
        ends.append(np.flatnonzero(breaks) + offset)
        # The first byte of every line that begins in this chunk.
        firsts.append(data[np.append(carried == _NEWLINE, breaks[:-1])])
        carried = data[-1]
        offset += len(chunk)
    ends = np.append(np.concatenate(ends), offset)
    starts = np.append(0, ends[:-1] + 1)
    first = np.concatenate([*firsts, np.full(int(carried == _NEWLINE), _NEWLINE, np.uint8)])
    # A line of blanks is no record; few begin with one, and only those are looked at.
    kept = first != _NEWLINE
    for line in np.flatnonzero(kept & np.isin(first, _BLANKS)):
        kept[line] = bool(_slice(path, starts[line], ends[line]).removeprefix(text_files.BOM).strip())
    return np.stack([starts, ends], -1)[kept].astype(np.int64)


def _index_array(path: str | os.PathLike) -> np.ndarray:
    """Records lie between the commas at depth 1.

    [ {"a": [1, 2]}, {"b": "}, {"} ]
    1 2     3    2 1 2           1 0     depth after each bracket outside of strings
    """
    borders, offset, depth, quoted, opened = [], 0, 0, 0, 0
    for chunk in _chunks(path):
        places, roles = _marks(chunk)
        quotes = roles == _QUOTES
        inside = (np.cumsum(quotes, dtype=np.int64) + quoted) % 2 == 1
        quoted = (quoted + int(quotes.sum())) % 2
        places, roles = places[~inside & ~quotes], roles[~inside & ~quotes]
        depths = np.cumsum(_STEP[roles], dtype=np.int64) + depth
        opens, closes = (roles == _OPENS) & (depths == 1), (roles == _CLOSES) & (depths == 0)
        borders.append(places[opens | closes | (roles == _SEPARATES) & (depths == 1)] + offset)
        opened += int(opens.sum())
        depth = int(depths[-1]) if len(depths) else depth
        offset += len(chunk)
    places = np.concatenate(borders)
    if depth or quoted:
        raise Owl2Error(f"{path} is cut off: its JSON array does not close; fetch the file again")
    if opened != 1 or _slice(path, int(places[-1]) + 1, offset).strip():
        raise Owl2Error(f"{path} goes on after its JSON array; expected one array and nothing else")
    ranges = np.stack([places[:-1] + 1, places[1:]], -1).astype(np.int64)
    empty = len(ranges) == 1 and not _slice(path, *ranges[0]).strip()
    return ranges[:0] if empty else ranges


def _slice(path: str | os.PathLike, start: int, end: int) -> bytes:
    return read_slice(os.fspath(path), int(start), int(end - start))


def _marks(chunk: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Positions and roles of the structural bytes, without quotation marks that are escaped."""
    data = np.frombuffer(chunk, np.uint8)
    roles = np.frombuffer(chunk.translate(_ROLE), np.uint8)
    places = np.flatnonzero(roles)
    roles = roles[places]
    slashes = np.flatnonzero(data == _BACKSLASH)
    if len(slashes):
        # A mark is escaped when the run of backslashes that ends before it is odd.
        runs = slashes[np.diff(slashes, prepend=-2) != 1]
        after = np.flatnonzero((roles == _QUOTES) & (places > 0) & (data[places - 1] == _BACKSLASH))
        run = runs[np.searchsorted(runs, places[after]) - 1]
        escaped = after[(places[after] - run) % 2 == 1]
        places, roles = np.delete(places, escaped), np.delete(roles, escaped)
    return places, roles
