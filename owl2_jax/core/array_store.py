"""Parameter trees written as Orbax checkpoints, leaf by leaf from blocks.

Orbax itself writes arrays that are already in memory. Here a leaf may be a
recipe that makes its layers one after the other, so that a tree of any size is
written with one layer in memory. The result is an ordinary Orbax checkpoint
(zarr arrays, one chunk per layer, uncompressed: weights hardly compress, and
decompressing them costs more than reading them).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from owl2_jax.core.tree import flatten, unflatten

_IN_FLIGHT: Final = 2  # blocks handed to the disk while the next one is made


@dataclass(frozen=True)
class StreamedLeaf:
    """An array known by shape and dtype whose values are made when they are written.

    Attributes:
      shape: of the whole array.
      dtype: of the stored values.
      blocks: makes the values: arrays [1, ...] in order along axis 0 when
        `stacked`, one array of the whole shape when not.
      stacked: axis 0 counts layers.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Callable[[], Iterator[np.ndarray]]
    stacked: bool

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def streamed(path: str, values: Any) -> StreamedLeaf:
    """An array in memory as a leaf to write; `path` says whether it is stacked over layers."""
    if isinstance(values, StreamedLeaf):
        return values
    stacked = "/layers/" in path

    def blocks() -> Iterator[np.ndarray]:
        if not stacked:
            yield np.asarray(values)
            return
        for layer in range(values.shape[0]):
            yield np.asarray(values[layer : layer + 1])

    return StreamedLeaf(tuple(values.shape), np.dtype(values.dtype), blocks, stacked)


def write_params(directory: str | Path, params: Mapping[str, Any]) -> None:
    """Writes a nested dict of arrays or `StreamedLeaf` as Orbax checkpoint `directory`.

    Raises:
      Whatever the disk raises; use it inside `outputs.new_directory`.
    """
    import orbax.checkpoint as ocp

    leaves = {path: streamed(path, values) for path, values in flatten(params).items()}
    registry = ocp.type_handlers.create_type_handler_registry((StreamedLeaf, _make_handler()))
    with quiet_orbax():
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, type_handler_registry=registry)
        checkpointer = ocp.Checkpointer(handler)
        checkpointer.save(Path(directory).resolve(), args=ocp.args.PyTreeSave(unflatten(leaves)))


def _make_handler() -> Any:
    """Orbax's way to store a leaf of type `StreamedLeaf`; built late, as Orbax is slow to import."""
    from orbax.checkpoint.type_handlers import TypeHandler

    class StreamedLeafHandler(TypeHandler):
        def typestr(self) -> str:
            return "np.ndarray"  # what it is for whoever reads it

        async def serialize(
            self, values: Sequence[StreamedLeaf], infos: Sequence[Any], args: Any = None
        ) -> Sequence[Any]:
            del args
            for leaf, info in zip(values, infos, strict=True):
                await info.await_path_creation()
                _write_leaf(str(info.path), leaf)
            return []  # nothing is left to wait for

        async def metadata(self, infos: Sequence[Any]) -> Sequence[Any]:
            raise TypeError("streamed leaves are written only; read them as numpy arrays")

        async def deserialize(self, infos: Sequence[Any], args: Any = None) -> Sequence[Any]:
            raise TypeError("streamed leaves are written only; read them as numpy arrays")

    return StreamedLeafHandler()


def _write_leaf(path: str, leaf: StreamedLeaf) -> None:
    import tensorstore

    dtype = np.dtype(leaf.dtype)
    chunks = (1, *leaf.shape[1:]) if leaf.stacked else leaf.shape
    store = tensorstore.open(
        {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": path},
            "metadata": {
                "shape": list(leaf.shape),
                "chunks": list(chunks),
                "dtype": "bfloat16" if dtype.name == "bfloat16" else dtype.str,
                "compressor": None,
            },
            # A chunk of zeros must exist: a missing one then always means damage.
            "store_data_equal_to_fill_value": True,
            # `outputs.new_directory` flushes all files at once, four times as fast.
            "context": {"file_io_sync": False},
        },
        create=True,
    ).result()
    pending: list[Any] = []
    start = 0
    for block in leaf.blocks():
        stop = start + block.shape[0] if leaf.stacked else None
        target = store[start:stop] if leaf.stacked else store
        pending.append(target.write(block, can_reference_source_data_indefinitely=True))
        start += block.shape[0] if leaf.stacked else 0
        while len(pending) > _IN_FLIGHT:
            pending.pop(0).result()
    for write in pending:
        write.result()


@contextmanager
def quiet_orbax() -> Iterator[None]:
    """Hides Orbax's remarks on what it does not write; errors still show."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
