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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from owl2_jax.checkpoint.orbax_s3 import commits_by_file
from owl2_jax.checkpoint.output_directory import write_all
from owl2_jax.checkpoint.overlap import write_behind
from owl2_jax.core.buckets import key_values
from owl2_jax.core.large_objects import written
from owl2_jax.core.paths import absolute, as_path, in_bucket
from owl2_jax.core.tree import Tree, flatten, unflatten


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


def write_params(directory: str | Path, params: Tree) -> None:
    """Writes a nested dict of arrays or `StreamedLeaf` as Orbax checkpoint `directory`.

    Raises:
      Whatever the disk raises; use it inside `outputs.new_directory`.
    """
    import orbax.checkpoint as ocp

    leaves = {path: streamed(path, values) for path, values in flatten(params).items()}
    registry = ocp.type_handlers.create_type_handler_registry((StreamedLeaf, _make_handler()))
    with quiet_orbax():
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, type_handler_registry=registry)
        checkpointer = ocp.Checkpointer(handler, **commits_by_file(directory))
        checkpointer.save(absolute(directory), args=ocp.args.PyTreeSave(unflatten(leaves)))


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
    """Writes one zarr array: its description by the array store, its chunks as the files they are.

    An uncompressed chunk of zarr 2 is the plain bytes of its values, and the
    store would copy each one and write it in one costly call.
    """
    _create_array(path, leaf)
    with write_behind() as write:
        for layer, block in enumerate(leaf.blocks()):
            expected = (1, *leaf.shape[1:]) if leaf.stacked else leaf.shape
            if block.shape != expected or block.dtype != leaf.dtype:
                raise ValueError(f"{path}: block {layer} is {block.dtype}{block.shape}, expected {expected}")
            chunk = [layer if leaf.stacked else 0, *[0] * (len(leaf.shape) - 1)]
            write(_write_chunk, as_path(path) / ".".join(map(str, chunk)), block)


def _write_chunk(path: Path, values: np.ndarray) -> None:
    if in_bucket(path):
        with written(path) as file:
            file.write(values)
        return
    with path.open("xb", buffering=0) as file:
        write_all(file, values)


def _create_array(path: str, leaf: StreamedLeaf) -> None:
    import tensorstore

    dtype = np.dtype(leaf.dtype)
    metadata = {
        "shape": list(leaf.shape),
        "chunks": [1, *leaf.shape[1:]] if leaf.stacked else list(leaf.shape),
        "dtype": "bfloat16" if dtype.name == "bfloat16" else dtype.newbyteorder("<").str,
        "compressor": None,
        "order": "C",
        "dimension_separator": ".",
    }
    kvstore = key_values(path)
    tensorstore.open({"driver": "zarr", "kvstore": kvstore, "metadata": metadata}, create=True).result()


@contextmanager
def quiet_orbax() -> Iterator[None]:
    """Hides Orbax's remarks on what it does not write; errors still show."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        logger.setLevel(level)
