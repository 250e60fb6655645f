"""Headers of safetensors files: refused in words, or the same tensors as the library of the format gives."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from owl2_jax.convert.safetensors_file import SafetensorsReader
from tests.fuzz.mutations import JUNK, attempt, mutate, pick

_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def cases(rng: np.random.Generator) -> Iterator[Callable[[], None]]:
    """Checks without an end, each of one file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        while True:
            header, data = whole(rng)
            yield partial(check, path, with_length(json.dumps(header).encode()) + data, whole=True)
            for _ in range(1 + int(rng.integers(2))):
                _change(rng, header)
            yield partial(check, path, _damaged(rng, with_length(json.dumps(header).encode()) + data))


def whole(rng: np.random.Generator) -> tuple[dict, bytes]:
    """A good header of a few tensors, in any order, and their data."""
    entries, position = [], 0
    for number in range(int(rng.integers(1, 5))):
        dtype = pick(rng, list(_SIZES))
        shape = [int(size) for size in rng.integers(0, 4, rng.integers(0, 4))]
        end = position + int(np.prod(shape, dtype=int)) * _SIZES[dtype]
        entries.append((f"t{number}", {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}))
        position = end
    header = {entries[i][0]: entries[i][1] for i in rng.permutation(len(entries))}
    return header, bytes(rng.integers(0, 2, position, dtype=np.uint8))


def with_length(raw: bytes) -> bytes:
    return len(raw).to_bytes(8, "little") + raw


def _change(rng: np.random.Generator, header: dict) -> None:
    kind, name = rng.integers(8), pick(rng, list(header)) if header else "t0"
    entry = header.get(name)
    if kind == 0:
        header[pick(rng, ["t0", "t1", "new", "__metadata__"])] = pick(rng, [*JUNK, {"format": "pt"}])
    elif kind == 1:
        header.pop(name, None)
    elif isinstance(entry, dict) and kind < 6:
        mutate(rng, entry, ["dtype", "shape", "data_offsets"], {
            "dtype": tuple(_SIZES), "shape": ([], [1], [2, 2], [-1], [1.0], [True], ["2"], [1 << 62, 4]),
            "data_offsets": ([0, 4], [4, 8], [0, 0], [8, 4], [0], [0, 4, 8], [-4, 0], [0.0, 4.0]),
        })  # fmt: skip
    elif isinstance(entry, dict) and isinstance(entry.get("data_offsets"), list):
        shift = int(rng.integers(-8, 9))
        entry["data_offsets"] = [o + shift if type(o) is int else o for o in entry["data_offsets"]]


def _damaged(rng: np.random.Generator, content: bytes) -> bytes:
    """Now and then shorter, longer, or with other bytes."""
    kind = rng.integers(12)
    if kind == 0:
        return content[: int(rng.integers(len(content)))]
    if kind == 1:
        return content + b"\0" * int(rng.integers(1, 9))
    if kind == 2:
        place = int(rng.integers(len(content)))
        return content[:place] + bytes([int(rng.integers(256))]) + content[place + 1 :]
    return content


def _read(path: Path) -> dict[str, np.ndarray]:
    reader = SafetensorsReader(path)
    return {name: reader.read(name) for name in reader.specs}


def check(path: Path, content: bytes, whole: bool = False) -> None:
    """Reads one file; any error but an `Owl2Error`, or other tensors than the library's, is a finding."""
    path.write_bytes(content)
    found, refusal = attempt(lambda: _read(path))
    if refusal:
        assert not whole, refusal
        return
    try:
        theirs: dict[str, Any] = dict(deserialize(content))
    except SafetensorError:
        # What the library asks of the notes in a header has no part in the tensors.
        # Python's JSON knows NaN, huge numbers and half characters; they are refused where they are read.
        if any(word in content for word in (b"__metadata__", b"NaN", b"Infinity", b"\\ud800", b"0" * 300)):
            return
        raise
    assert theirs.keys() == found.keys()
    for name, entry in theirs.items():
        assert list(found[name].shape) == list(entry["shape"]), name
        assert found[name].tobytes() == bytes(entry["data"]), name
        assert found[name].dtype.itemsize == _SIZES[entry["dtype"]], name
