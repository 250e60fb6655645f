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

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.outputs import write_all

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


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of a stored tensor."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class SafetensorsReader:
    """One file. Reads and checks the header at once, tensors when asked.

    Raises:
      Owl2Error: no safetensors file, a damaged header, or a file shorter or
        longer than its header says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header, self._data_start = _read_header(path)
        header.pop("__metadata__", None)
        self.specs: dict[str, TensorSpec] = {}
        self._begins: dict[str, int] = {}
        end = 0
        for name, entry in header.items():
            spec, begin, stop = _parse_entry(path, name, entry)
            self.specs[name], self._begins[name] = spec, begin
            end = max(end, stop)
        _check_size(path, self._data_start + end)

    def read(self, name: str) -> np.ndarray:
        """The tensor `name` as an array of its own memory."""
        spec = self.specs[name]
        offset = self._data_start + self._begins[name]
        return read_array(self.path, offset, math.prod(spec.shape), spec.dtype).reshape(spec.shape)


def read_array(path: Path, offset: int, count: int, dtype: np.dtype) -> np.ndarray:
    """`count` values of `dtype` from byte `offset`; raises `Owl2Error` when the file ends before."""
    values = (
        np.fromfile(path, np.uint8, count * dtype.itemsize, offset=offset) if count else np.empty(0, np.uint8)
    )
    if values.nbytes != count * dtype.itemsize:
        raise Owl2Error(
            f"{path} is truncated: {count * dtype.itemsize} bytes expected at {offset}, found {values.nbytes}"
        )
    return values.view(dtype)


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and where the data starts."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise Owl2Error(
                f"{path} is no whole safetensors file: its header should be {length} bytes, "
                f"the file has {size}; copy it again"
            )
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise Owl2Error(f"{path}: the safetensors header is damaged ({error}); copy the file again") from None
    if not isinstance(header, dict):
        raise Owl2Error(f"{path}: the safetensors header is damaged; copy the file again")
    return header, 8 + length


def _parse_entry(path: Path, name: str, entry: Any) -> tuple[TensorSpec, int, int]:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(map(int, entry["shape"])), entry["data_offsets"]
        begin, end = int(begin), int(end)
    except (KeyError, TypeError, ValueError):
        raise Owl2Error(f"{path}: the header entry of {name!r} is damaged; copy the file again") from None
    if dtype not in DTYPES:
        raise Owl2Error(f"{path}: {name!r} has dtype {dtype}; readable are {', '.join(DTYPES)}")
    spec = TensorSpec(shape, DTYPES[dtype])
    if min(shape, default=0) < 0 or begin < 0 or end - begin != spec.nbytes:
        raise Owl2Error(
            f"{path}: {name!r} has {end - begin} bytes, {dtype} {list(shape)} needs {spec.nbytes}; "
            "copy the file again"
        )
    return spec, begin, end


def _check_size(path: Path, expected: int) -> None:
    size = path.stat().st_size
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
        self.specs = dict(specs)
        self._begins: dict[str, int] = {}
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        position = 0
        for name, spec in specs.items():
            begin, position = position, position + spec.nbytes
            self._begins[name] = begin
            header[name] = {
                "dtype": _NAMES[spec.dtype],
                "shape": list(spec.shape),
                "data_offsets": [begin, position],
            }
        raw = json.dumps(header, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)  # so that data is aligned
        self._data_start = 8 + len(raw)
        self.path = path
        path.write_bytes(len(raw).to_bytes(8, "little") + raw)
        os.truncate(path, self._data_start + position)

    def write(self, name: str, values: np.ndarray) -> None:
        """Stores `values`, cast to the dtype announced for `name`."""
        spec = self.specs[name]
        if values.shape != spec.shape:
            raise ValueError(f"{name}: shape {values.shape}, announced {spec.shape}")
        # Opened each time: an export may have more shards than a process may have files.
        with self.path.open("r+b", buffering=0) as file:
            file.seek(self._data_start + self._begins[name])
            write_all(file, values.astype(spec.dtype, copy=False))
