"""PyTorch weight files (`.bin`), written without PyTorch.

The format is a zip archive: a pickle that describes the tensors, which any
reader runs, and one uncompressed entry with the bytes of each. The pickle is
spelled out in its opcodes, as a pickler would want to import the functions it
names.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

_FOLDER: Final = "archive"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # so that the same tensors give the same file
_REBUILD: Final = pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n"
_FLOAT_STORAGE: Final = pickle.GLOBAL + b"torch\nFloatStorage\n"
_NO_HOOKS: Final = pickle.GLOBAL + b"collections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE


def write_pickled(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes {name: float32 array} as a file that `torch.load` reads, also with `weights_only`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, content: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(f"{_FOLDER}/{name}", _EPOCH), content)

        add("data.pkl", _describe(tensors))
        add("byteorder", b"little")
        for number, values in enumerate(tensors.values()):
            add(f"data/{number}", np.ascontiguousarray(values, "<f4").tobytes())
        add("version", b"3\n")


def _describe(tensors: Mapping[str, np.ndarray]) -> bytes:
    items = b"".join(
        _text(name) + _tensor(number, values.shape) + pickle.SETITEM
        for number, (name, values) in enumerate(tensors.items())
    )
    return pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + items + pickle.STOP


def _tensor(number: int, shape: tuple[int, ...]) -> bytes:
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    size = _int(math.prod(shape))
    storage = _tuple(_text("storage"), _FLOAT_STORAGE, _text(str(number)), _text("cpu"), size)
    return (
        _REBUILD
        + _tuple(
            storage + pickle.BINPERSID,
            _int(0),
            _tuple(*map(_int, shape)),
            _tuple(*map(_int, strides)),
            pickle.NEWFALSE,
            _NO_HOOKS,
        )
        + pickle.REDUCE
    )


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _int(value: int) -> bytes:
    """A signed number of up to eight bytes."""
    content = value.to_bytes(8, "little", signed=True)
    return pickle.LONG1 + bytes([len(content)]) + content


def _text(value: str) -> bytes:
    content = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(content)) + content
