"""Safetensors files, read one tensor at a time and written in any order.

Own code in place of the `safetensors` library for two reasons: the library
writes a file from a dict that holds all of its tensors, and reads through a
memory map whose pages count as ours; both break the bound on memory.

Layout: uint64 little-endian length of the header, header (JSON: name to dtype,
shape and [begin, end) within the data), data without gaps.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np

from owl2_jax.checkpoint.output_directory import write_all
from owl2_jax.convert.key_rules import shown
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_errors import why_not_readable
from owl2_jax.core.json_files import parse_json
from owl2_jax.core.large_objects import ObjectWriter, opened, read_at, size_of
from owl2_jax.core.text_files import what_was_downloaded

DTYPES: Final[dict[str, np.dtype]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER: Final = 100_000_000  # bytes; the format's own limit
_MAX_OFFSET: Final = 1 << 63
_MAX_AXES: Final = 64  # as many as numpy has
_NOTHING: Final = np.empty(0, np.uint8)
_START: Final = 512  # bytes that tell what a file is


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of a stored tensor."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


class SafetensorsReader:
    """One file. Reads and checks the header at once, tensors when asked.

    Raises:
      Owl2Error: no safetensors file, a damaged header, or a file shorter or
        longer than its header says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header, self._data_start, size = read_header(path)
        self.specs, self._begins = parse_header(path, header)
        ends = [begin + self.specs[name].nbytes for name, begin in self._begins.items()]
        _check_size(path, size, self._data_start + max(ends, default=0))

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """The tensor `name`, or some of its rows, as an array of its own memory."""
        spec = self.specs[name]
        offset = self._data_start + self._begins[name]
        shape = spec.shape
        if rows is not None:
            shape = (rows.stop - rows.start, *shape[1:])
            offset += rows.start * math.prod(shape[1:]) * spec.dtype.itemsize
        return read_array(self.path, offset, math.prod(shape), spec.dtype).reshape(shape)


def read_array(path: Path, offset: int, count: int, dtype: np.dtype) -> np.ndarray:
    """`count` values of `dtype` from byte `offset`; raises `Owl2Error` when the file ends before."""
    try:
        values = read_at(path, offset, count * dtype.itemsize) if count else _NOTHING
    except OSError as error:
        raise Owl2Error(why_not_readable(path, error)) from error
    if values.nbytes != count * dtype.itemsize:
        raise Owl2Error(
            f"{path} is truncated: {count * dtype.itemsize} bytes expected at {offset}, found {values.nbytes}"
        )
    return values.view(dtype)


def read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header, where the data starts, and the bytes of the whole file."""
    try:
        size = size_of(path)
        with opened(path) as file:
            start = file.read(_START)
            if not start:
                raise Owl2Error(f"{path} is empty; copy the file again")
            length = int.from_bytes(start[:8], "little")
            wrong = what_was_downloaded(start)
            if wrong:
                raise Owl2Error(f"{path} is {wrong}")
            if size < 8 or length > min(size - 8, _MAX_HEADER):
                raise Owl2Error(
                    f"{path} is no whole safetensors file: its header should be {length} bytes, "
                    f"the file has {size}; copy it again"
                )
            file.seek(8)
            raw = file.read(length)
    except OSError as error:
        raise Owl2Error(why_not_readable(path, error)) from error
    try:
        header = parse_json(raw, "it", one_of_each_key=True)
    except Owl2Error as error:
        raise Owl2Error(f"{path}: the safetensors header is damaged: {error}; copy the file again") from None
    if not isinstance(header, dict):
        raise Owl2Error(f"{path}: the safetensors header is damaged; copy the file again")
    return header, 8 + length, size


def parse_header(path: Path, header: Mapping[str, Any]) -> tuple[dict[str, TensorSpec], dict[str, int]]:
    """({name: spec}, {name: first byte within the data}) of a header.

    Raises:
      Owl2Error: an entry that makes no sense, or tensors that share bytes or
        leave some between them, which the format forbids.
    """
    specs: dict[str, TensorSpec] = {}
    begins: dict[str, int] = {}
    for name, entry in header.items():
        if name != "__metadata__":
            specs[name], begins[name] = _parse_entry(path, name, entry)
    last, position = "", 0
    for name in sorted(begins, key=lambda name: (begins[name], specs[name].nbytes)):
        if begins[name] < position:
            raise Owl2Error(
                f"{path}: {last!r} and {name!r} share bytes ({begins[name]} to {position} of the data), "
                "which the format forbids; save the file again with clones of them"
            )
        if begins[name] > position:
            raise Owl2Error(
                f"{path}: bytes {position} to {begins[name]} of the data belong to no tensor "
                f"(before {name!r}); copy the file again"
            )
        last, position = name, begins[name] + specs[name].nbytes
    return specs, begins


def _parse_entry(path: Path, name: str, entry: object) -> tuple[TensorSpec, int]:
    damaged = Owl2Error(f"{path}: the header entry of {shown(name)} is damaged; copy the file again")
    if not isinstance(entry, dict):
        raise damaged
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(dtype, str) and _whole(shape) and _whole(offsets) and len(offsets) == 2):
        raise damaged
    if dtype not in DTYPES:
        raise Owl2Error(f"{path}: {name!r} has dtype {shown(dtype)[1:-1]}; readable are {', '.join(DTYPES)}")
    spec, (begin, end) = TensorSpec(tuple(shape), DTYPES[dtype]), offsets
    if end - begin != spec.nbytes:
        raise Owl2Error(
            f"{path}: {name!r} has {shown(end - begin)} bytes, {dtype} {shown(shape)} needs "
            f"{shown(spec.nbytes)}; copy the file again"
        )
    return spec, begin


def _whole(numbers: object) -> bool:
    """Whether this is a list of whole numbers from 0 that an offset can be."""
    return (
        isinstance(numbers, list)
        and len(numbers) <= _MAX_AXES
        and all(type(number) is int and 0 <= number < _MAX_OFFSET for number in numbers)
    )


def _check_size(path: Path, size: int, expected: int) -> None:
    if size != expected:
        kind = "truncated" if size < expected else "longer than its header says"
        raise Owl2Error(f"{path} is {kind}: {size} bytes found, {expected} expected; copy the file again")


class SafetensorsWriter:
    """One file of known tensors, which may then be written in any order.

    Args:
      path: the file to make.
      specs: name to shape and dtype, in the order of storage.
    """

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec]) -> None:
        self.path, self.specs = path, dict(specs)
        start, self._begins, end = _header(specs)
        self._data_start = len(start)
        path.write_bytes(start)
        os.truncate(path, self._data_start + end)

    def write(self, name: str, values: np.ndarray, rows: slice | None = None) -> None:
        """Stores `values`, cast to the dtype announced for `name`, in all or some of its rows."""
        offset = _offset(name, self.specs[name], values, rows)
        # Opened each time: an export may have more shards than a process may have files.
        with self.path.open("r+b", buffering=0) as file:
            file.seek(self._data_start + self._begins[name] + offset)
            write_all(file, values.astype(self.specs[name].dtype, copy=False))


class SafetensorsStream:
    """As `SafetensorsWriter`, for an object in a bucket: values come in the order of storage.

    The object appears with its last value.

    Raises:
      Owl2Error: the store does not take it.
    """

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec]) -> None:
        self.path, self.specs = path, dict(specs)
        self._start, self._begins, self._end = _header(specs)
        self._position, self._writer = 0, None
        if not self._end:
            self._send(_NOTHING)

    def write(self, name: str, values: np.ndarray, rows: slice | None = None) -> None:
        """Adds `values`. Raises `ValueError` where others should come first."""
        place = self._begins[name] + _offset(name, self.specs[name], values, rows)
        if place != self._position:
            raise ValueError(f"{name}: its values belong at {place}, expected those at {self._position}")
        self._send(values.astype(self.specs[name].dtype, copy=False))

    def _send(self, values: np.ndarray) -> None:
        if self._writer is None:
            self._writer = ObjectWriter(self.path)
            self._writer.write(self._start)
        self._writer.write(values)
        self._position += values.nbytes
        if self._position == self._end:
            self._writer.close()

    def discard(self) -> None:
        """Leaves nothing of an object that has not appeared yet."""
        if self._writer is not None and self._position != self._end:
            self._writer.discard()


def _header(specs: Mapping[str, TensorSpec]) -> tuple[bytes, dict[str, int], int]:
    """(all bytes before the data, {name: first byte within the data}, bytes of the data)."""
    begins: dict[str, int] = {}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, spec in specs.items():
        begins[name], position = position, position + spec.nbytes
        header[name] = {
            "dtype": _NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [begins[name], position],
        }
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # so that data is aligned
    return len(raw).to_bytes(8, "little") + raw, begins, position


def _offset(name: str, spec: TensorSpec, values: np.ndarray, rows: slice | None) -> int:
    """Where some of a tensor's rows begin within it. Raises `ValueError` for values of another shape."""
    shape, offset = spec.shape, 0
    if rows is not None:
        shape = (rows.stop - rows.start, *shape[1:])
        offset = rows.start * math.prod(shape[1:]) * spec.dtype.itemsize
    if values.shape != shape:
        raise ValueError(f"{name}: shape {values.shape}, announced {shape}")
    return offset
