"""Files that sources are made of: lists of shards, slices, JSON and where its records lie."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.sources.base import RecordError

CHUNK = 1 << 24

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
            files = [name] if os.path.isfile(name) else sorted(filter(os.path.isfile, glob.glob(name)))
            if not files:
                raise Owl2Error(f"no file matches {name!r}; check the path in the config")
            found += files
    if not found:
        raise Owl2Error("a source was given an empty list of files; name at least one")
    return found


def read_slice(path: str, offset: int, size: int) -> bytes:
    """Reads `size` bytes at `offset`.

    The file is opened anew each time: sources are used by many threads and
    sent to other processes, and beside decoding a picture an open is free.
    """
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        return file.read(size)


def read_json(path: str | os.PathLike) -> Any:
    """Reads a whole JSON file.

    Raises:
      Owl2Error: It is missing, or no JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise Owl2Error(f"cannot read {path}: {error.strerror}; check the path in the config") from error
    except (ValueError, RecursionError) as error:
        raise Owl2Error(f"{path} is not a JSON file: {error}; it may be cut off, fetch it again") from error


def parse_record(data: bytes, source: str, index: int) -> dict:
    """Parses one JSON object.

    Raises:
      RecordError: `corrupt_record`: it is no JSON, or no object.
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordError(source, index, "corrupt_record", f"no JSON: {error}") from error
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise RecordError(source, index, "corrupt_record", f"found a {kind}, expected an object")
    return record


def picture_path(folder: str | os.PathLike, name: object, source: str, index: int) -> str:
    """The path of the picture `name` below `folder`.

    Raises:
      RecordError: `corrupt_record`: no name, or one that leaves the folder;
        `missing`: no such file.
    """
    if not isinstance(name, str) or not name:
        raise RecordError(source, index, "corrupt_record", f"the picture is {name!r}, expected a file name")
    if os.path.isabs(name) or ".." in Path(name).parts:
        raise RecordError(source, index, "corrupt_record", f"the picture {name!r} lies outside {folder}")
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise RecordError(source, index, "missing", f"no picture {path}")
    return path


def index_json(path: str | os.PathLike) -> np.ndarray:
    """Finds the records of a JSON array, or of a file with one JSON object per line.

    The records are not parsed, and memory does not grow with the file.

    Returns:
      `int64[n, 2]`: start and end of each record in bytes.

    Raises:
      Owl2Error: The file is missing or empty, or its array does not close.
    """
    try:
        with open(path, "rb") as file:
            first = _first_byte(file.read(4096))
    except OSError as error:
        raise Owl2Error(f"cannot read {path}: {error.strerror}; check the path in the config") from error
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


def _first_byte(data: bytes) -> bytes:
    return data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _chunks(path: str | os.PathLike) -> Iterator[bytes]:
    """Yields the file in pieces that end in no backslash, so that no escape is torn."""
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            while chunk.endswith(b"\\") and (more := file.read(1)):
                chunk += more
            yield chunk


def _index_lines(path: str | os.PathLike) -> np.ndarray:
    ends, offset = [], 0
    for chunk in _chunks(path):
        ends.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == _NEWLINE) + offset)
        offset += len(chunk)
    ends = np.append(np.concatenate(ends), offset)
    starts = np.append(0, ends[:-1] + 1)
    # An empty line, with or without a carriage return, is no record; any other byte alone is a bad one.
    lengths = ends - starts
    kept = lengths > 0
    with open(path, "rb") as file:
        for line in np.flatnonzero(lengths == 1):
            file.seek(int(starts[line]))
            kept[line] = file.read(1) != b"\r"
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
