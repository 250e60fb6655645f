"""PyTorch's pickled weight files, read without running anything they say.

A pickle is a program. This reader lets it build dicts, tuples, numbers and
strings, and understands by name the handful of functions that describe a
tensor; any other name stops it before anything is called. Tensors become
descriptions (storage, offset, shape, strides); bytes are read when asked for.

Both layouts are read: the zip archive (torch 1.6 and later) and the older
stream of pickles followed by raw storages.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import ml_dtypes
import numpy as np

from owl2_jax.convert.key_rules import shown
from owl2_jax.convert.pickle_depth import check_depth
from owl2_jax.convert.safetensors_file import TensorSpec, read_array
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_errors import why_not_readable
from owl2_jax.core.json_files import json_kind
from owl2_jax.core.large_objects import opened
from owl2_jax.core.text_files import what_was_downloaded

_STORAGES: Final[dict[str, np.dtype]] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
# What reading a damaged pickle or archive raises; almost anything.
_DAMAGE: Final = (
    ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError, RecursionError,
    TypeError, ValueError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    count: int  # values


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int  # values
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # values

    @property
    def span(self) -> int:
        """Values between the first and the last one, both included."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))

    def cut(self, rows: slice) -> _Tensor:
        """Some of its rows."""
        shape = (rows.stop - rows.start, *self.shape[1:])
        return _Tensor(self.storage, self.offset + rows.start * self.strides[0], shape, self.strides)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: object) -> _Tensor:
    """Stands for torch's functions of this name; `rest` is gradient flags and hooks."""
    del rest
    if not isinstance(storage, _Storage) or not isinstance(offset, int):
        raise pickle.UnpicklingError("a tensor without a storage")
    shape, strides = tuple(map(int, shape)), tuple(map(int, strides))
    tensor = _Tensor(storage, offset, shape, strides)
    if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
        raise pickle.UnpicklingError("a tensor with impossible strides")
    if offset + tensor.span > storage.count:
        raise pickle.UnpicklingError("a tensor that reaches beyond its storage")
    return tensor


def _rebuild_parameter(data: Any, *rest: object) -> Any:
    del rest
    return data


_GLOBALS: Final[dict[tuple[str, str], Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Knows `_GLOBALS` and nothing else; `storages` are those met, by key."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _GLOBALS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which weights do not need")
        return _GLOBALS[module, name]

    def persistent_load(self, pid: object) -> _Storage:
        if (
            not isinstance(pid, tuple)
            or len(pid) < 5
            or pid[0] != "storage"
            or not isinstance(pid[1], np.dtype)
        ):
            raise pickle.UnpicklingError("an unknown kind of storage")
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("a storage that is a view of another")
        return self.storages.setdefault(str(pid[2]), _Storage(str(pid[2]), pid[1], int(pid[4])))


def _load(file: BinaryIO) -> Any:
    check_depth(file)
    return _Unpickler(file).load()


class PickledReader:
    """One file. Reads descriptions at once, tensors when asked.

    Raises:
      Owl2Error: no such file, a damaged one, one that is not a flat mapping
        of names to tensors, or one that asks for anything but tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with opened(path) as file:
                start = file.read(512)
                wrong = what_was_downloaded(start) if start else "empty; copy the file again"
                if wrong:
                    raise Owl2Error(f"{path} is {wrong}")
                parse = _parse_zip if zipfile.is_zipfile(file) else _parse_legacy
                file.seek(0)
                values, self._offsets = parse(file)
            self._tensors = _tensors(values)
        except pickle.UnpicklingError as error:
            raise Owl2Error(f"{path} is refused: {error}") from None
        except OSError as error:
            raise Owl2Error(why_not_readable(path, error)) from error
        except _DAMAGE as error:
            raise Owl2Error(
                f"{path} is no whole PyTorch weight file ({type(error).__name__}: {error}); copy it again"
            ) from None
        self.specs = {name: TensorSpec(t.shape, t.storage.dtype) for name, t in self._tensors.items()}

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """The tensor `name`, or some of its rows, as a C-contiguous array of its own memory."""
        tensor = self._tensors[name]
        if rows is not None:
            tensor = tensor.cut(rows)
        dtype = tensor.storage.dtype
        start = self._offsets[tensor.storage.key] + tensor.offset * dtype.itemsize
        values = read_array(self.path, start, tensor.span, dtype)
        strides = [stride * dtype.itemsize for stride in tensor.strides]
        return np.lib.stride_tricks.as_strided(values, tensor.shape, strides).copy(order="C")


def _tensors(values: object) -> dict[str, _Tensor]:
    if not isinstance(values, Mapping):
        raise pickle.UnpicklingError(f"it holds {_kind(values)}, not names and tensors")
    for name, value in values.items():
        if not isinstance(name, str):
            raise pickle.UnpicklingError(f"an entry is named {shown(name)}, which is no text")
        if not isinstance(value, _Tensor):
            raise pickle.UnpicklingError(
                f"entry {shown(name)} is {_kind(value)}, not a tensor{_where_weights_are(values)}"
            )
    return dict(values)


def _kind(value: object) -> str:
    words = {_Tensor: "a tensor", dict: "a dict", OrderedDict: "a dict"}
    return words.get(type(value)) or json_kind(value)


def _where_weights_are(values: Mapping[object, object]) -> str:
    """Says which entry of a training checkpoint holds the weights."""
    for name, value in values.items():
        inside = list(value.values()) if isinstance(value, Mapping) else []
        if inside and all(isinstance(tensor, _Tensor) for tensor in inside):
            return f"; its entry {shown(name)} holds weights: save that alone with torch.save"
    return ""


def _parse_zip(file: BinaryIO) -> tuple[Any, dict[str, int]]:
    """The pickled object, and {storage key: byte offset in the file}."""
    with zipfile.ZipFile(file) as archive:
        records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "data.pkl" not in records:
            raise pickle.UnpicklingError("it is a zip archive without data.pkl")
        if "byteorder" in records and archive.read(records["byteorder"]).strip() != b"little":
            raise pickle.UnpicklingError("it was written on a big-endian machine")
        values = _load(io.BytesIO(archive.read(records["data.pkl"])))
        offsets = {}
        for name, info in records.items():
            if name.startswith("data/"):
                if info.compress_type != zipfile.ZIP_STORED:
                    raise pickle.UnpicklingError("its storages are compressed")
                offsets[name.removeprefix("data/")] = _record_start(file, info)
    return values, offsets


def _record_start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where a record's bytes start: after its local header, whose padding the directory does not tell."""
    file.seek(info.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + name_length + extra_length


def _parse_legacy(file: BinaryIO) -> tuple[Any, dict[str, int]]:
    """As `_parse_zip`, for the stream: magic, version, system, object, keys, then count and bytes of each."""
    if _load(file) != _LEGACY_MAGIC:
        raise pickle.UnpicklingError("it does not start as a PyTorch file")
    _load(file)  # protocol version
    system = _load(file)
    if not system.get("little_endian", True):
        raise pickle.UnpicklingError("it was written on a big-endian machine")
    check_depth(file)
    unpickler = _Unpickler(file)
    values = unpickler.load()
    keys = _load(file)
    offsets, position = {}, file.tell()
    for key in map(str, keys):
        offsets[key] = position + 8  # after the count
        storage = unpickler.storages[key]
        position += 8 + storage.count * storage.dtype.itemsize
    return values, offsets
