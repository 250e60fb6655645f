"""Parameter trees written as Orbax checkpoints, leaf by leaf from blocks.

Orbax itself writes arrays that are already in memory. Here a leaf may be a
recipe that makes its layers, or its pieces, one after the other, so that a tree
of any size is written with one of them in memory. The result is an ordinary Orbax
checkpoint (zarr arrays, one chunk per layer or piece, uncompressed: weights hardly
compress, and decompressing them costs more than reading them).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from owl2_jax.checkpoint.orbax_s3 import commits_by_file
from owl2_jax.checkpoint.output_directory import write_all
from owl2_jax.checkpoint.overlap import write_behind
from owl2_jax.core.buckets import key_values, told_by_tensorstore
from owl2_jax.core.large_objects import written
from owl2_jax.core.paths import absolute, as_path, in_bucket
from owl2_jax.core.tree import Tree, flatten, unflatten

PIECE_BYTES: Final = 1 << 25  # a matrix that counts no layers is cut into pieces of at most this


@dataclass(frozen=True)
class StreamedLeaf:
    """An array known by shape and dtype whose values are made when they are written.

    Attributes:
      shape: of the whole array.
      dtype: of the stored values.
      blocks: makes the values, in order along `axis`: arrays [1, ...] when
        `stacked`, one or several of any length when not.
      stacked: axis 0 counts layers.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Callable[[], Iterator[np.ndarray]]
    stacked: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def axis(self) -> int:
        """The axis that the array is cut along: that of the layers, or the longest."""
        return 0 if self.stacked else longest_axis(self.shape)

    @property
    def step(self) -> int:
        """How long a stored chunk is along `axis`."""
        return 1 if self.stacked else piece_length(self.shape, self.dtype)


def is_stacked(path: str) -> bool:
    """Whether the first axis of a parameter counts layers."""
    return "/layers/" in path


def longest_axis(shape: Sequence[int]) -> int:
    """The first of the longest axes; 0 of a single number."""
    return max(range(len(shape)), key=shape.__getitem__, default=0)


def piece_length(shape: Sequence[int], dtype: np.dtype) -> int:
    """How much of the longest axis `PIECE_BYTES` hold, 1 or more."""
    longest = max(shape, default=1)
    each = math.prod(shape) // max(longest, 1) * np.dtype(dtype).itemsize
    return max(1, min(longest, PIECE_BYTES // max(each, 1)))


def streamed(path: str, values: Any) -> StreamedLeaf:
    """An array in memory as a leaf to write; `path` says whether it is stacked over layers."""
    if isinstance(values, StreamedLeaf):
        return values
    stacked = is_stacked(path)

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
    blocks = _checked(path, leaf)
    if leaf.shape:
        blocks = pieces(blocks, leaf.axis, leaf.step)
    with write_behind() as write:
        for number, values in enumerate(blocks):
            chunk = [0] * max(1, len(leaf.shape))
            chunk[leaf.axis] = number
            write(_write_chunk, as_path(path) / ".".join(map(str, chunk)), _padded(values, leaf))


def _checked(path: str, leaf: StreamedLeaf) -> Iterator[np.ndarray]:
    """The blocks of a leaf. Raises ValueError for one that is not what was announced."""
    done, whole = 0, leaf.shape[leaf.axis] if leaf.shape else 1
    for block in leaf.blocks():
        length = block.shape[leaf.axis] if block.ndim else 1
        expected = (1, *leaf.shape[1:]) if leaf.stacked else _with_length(leaf.shape, leaf.axis, length)
        done += length
        if block.shape != expected or block.dtype != leaf.dtype or done > whole:
            raise ValueError(f"{path}: a block is {block.dtype}{block.shape}, expected {expected} of {whole}")
        yield block
    if done != whole:
        raise ValueError(f"{path}: blocks of {done} along axis {leaf.axis}, expected {whole}")


def pieces(blocks: Iterable[np.ndarray], axis: int, step: int) -> Iterator[np.ndarray]:
    """The same values in arrays of `step` along `axis`, the last of what is left."""
    waiting: list[np.ndarray] = []
    missing = step
    for block in blocks:
        while block.shape[axis]:
            before = (slice(None),) * axis
            waiting.append(block[(*before, slice(missing))])
            block = block[(*before, slice(missing, None))]
            missing -= waiting[-1].shape[axis]
            if not missing:
                yield _joined(waiting, axis)
                waiting, missing = [], step
    if waiting:
        yield _joined(waiting, axis)


def _joined(parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)


def _with_length(shape: Sequence[int], axis: int, length: int) -> tuple[int, ...]:
    return tuple(length if number == axis else size for number, size in enumerate(shape))


def _padded(values: np.ndarray, leaf: StreamedLeaf) -> np.ndarray:
    """A last piece with zeros behind it: in zarr all chunks are of one size."""
    missing = leaf.step - values.shape[leaf.axis] if values.ndim else 0
    if not missing:
        return values
    zeros = np.zeros(_with_length(leaf.shape, leaf.axis, missing), leaf.dtype)
    return np.concatenate([values, zeros], leaf.axis)


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
        "chunks": list(_with_length(leaf.shape, leaf.axis, leaf.step)),
        "dtype": "bfloat16" if dtype.name == "bfloat16" else dtype.newbyteorder("<").str,
        "compressor": None,
        "order": "C",
        "dimension_separator": ".",
    }
    spec = {"driver": "zarr", "kvstore": key_values(path), "metadata": metadata}
    with told_by_tensorstore(path) if in_bucket(path) else nullcontext():
        tensorstore.open(spec, create=True).result()


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
