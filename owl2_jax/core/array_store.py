"""Parameter trees as Orbax checkpoints: written from blocks, restored onto devices.

Orbax itself writes arrays that are already in memory. Here a leaf may be a
recipe that makes its layers one after the other, so that a tree of any size is
written with one layer in memory. The result is an ordinary Orbax checkpoint
(zarr arrays, one chunk per layer, uncompressed: weights hardly compress, and
decompressing them costs more than reading them).
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from owl2_jax.core.errors import Owl2Error, nearest, unknown_name
from owl2_jax.core.tree import flatten, unflatten

_ORBAX_METADATA: Final = "_METADATA"  # Orbax writes it last
_SHOWN: Final = 5  # names listed in a message
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


def check_complete(params: Path) -> None:
    """Raises `Owl2Error` when the directory is no whole Orbax checkpoint."""
    if not (params / _ORBAX_METADATA).is_file():
        raise Owl2Error(
            f"{params} is half-written or damaged: {_ORBAX_METADATA} is missing; "
            "copy it again, or give another step (RUN/checkpoints/STEP)"
        )


def stored_arrays(params: str | Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """{name: (shape, dtype)} of an Orbax checkpoint, without reading values.

    Raises:
      Owl2Error: it is missing or damaged.
    """
    import orbax.checkpoint as ocp

    params = Path(params).resolve()
    check_complete(params)
    with _damage(params), quiet_orbax():
        tree = ocp.PyTreeCheckpointHandler().metadata(params)
        tree = getattr(tree, "tree", tree)
        return {name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for name, leaf in flatten(tree).items()}


def check_fit(
    stored: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Compares {name: shape} of a checkpoint with that of a model.

    Raises:
      Owl2Error: leaves missing, leaves not known or shapes that differ, all of
        them in one line, with the nearest names.
    """
    extra = [name for name in stored if name not in expected]
    missing = [_with_nearest(name, extra) for name in expected if name not in stored]
    shaped = [
        f"{name} is {list(stored[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in stored and tuple(stored[name]) != tuple(shape)
    ]
    kinds = {"missing": missing, "not in the model": extra, "of another shape": shaped}
    problems = [f"{len(names)} {kind}: {listing(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise Owl2Error(f"{where} does not fit the model: {'; '.join(problems)}")


def restore_params(
    params: str | Path, abstract: Mapping[str, Any] | None = None, shardings: Any = None
) -> dict[str, Any]:
    """Loads a parameter tree, each device reading only what it will hold.

    Args:
      params: an Orbax checkpoint (`Checkpoint.params`), as written by
        `write_params` or by a checkpoint manager.
      abstract: nested dict of `jax.ShapeDtypeStruct`; leaves are cast to its
        dtypes. A leaf with a sharding becomes a `jax.Array` on its mesh, one
        without a numpy array. None loads what is there, as numpy arrays.
      shardings: one sharding for all leaves, or a tree of them; in place of
        those in `abstract`.

    Returns:
      Nested dict of arrays.

    Raises:
      Owl2Error: the checkpoint is missing, damaged, or has other leaves or
        shapes than `abstract`.
    """
    stored = stored_arrays(params)
    if abstract is None:
        targets = {name: _Target(shape, dtype, None) for name, (shape, dtype) in stored.items()}
    else:
        targets = {
            name: _Target(tuple(leaf.shape), np.dtype(leaf.dtype), getattr(leaf, "sharding", None))
            for name, leaf in flatten(abstract).items()
        }
        check_fit(
            {n: s for n, (s, _) in stored.items()}, {n: t.shape for n, t in targets.items()}, str(params)
        )
    if isinstance(shardings, Mapping):
        flat = flatten(shardings)
        targets = {name: _Target(t.shape, t.dtype, flat[name]) for name, t in targets.items()}
    elif shardings is not None:
        targets = {name: _Target(t.shape, t.dtype, shardings) for name, t in targets.items()}
    return _restore(Path(params), targets)


class ParamsReader:
    """An Orbax checkpoint read one leaf at a time.

    Attributes:
      shapes, dtypes: by name, of what is stored.

    Raises:
      Owl2Error: the checkpoint is missing or damaged.
    """

    def __init__(self, params: str | Path) -> None:
        self._params = Path(params)
        self._stored = stored_arrays(params)
        self.shapes = {name: shape for name, (shape, _) in self._stored.items()}
        self.dtypes = {name: dtype for name, (_, dtype) in self._stored.items()}

    def read(self, name: str) -> np.ndarray:
        """The leaf `name` as a numpy array of its stored dtype."""
        if name not in self._stored:
            raise unknown_name(f"parameter of {self._params}", name, self._stored)
        return flatten(_restore(self._params, {name: _Target(*self._stored[name], None)}))[name]


@dataclass(frozen=True)
class _Target:
    shape: tuple[int, ...]
    dtype: np.dtype
    sharding: Any


def _restore(params: Path, targets: Mapping[str, _Target]) -> dict[str, Any]:
    import jax
    import orbax.checkpoint as ocp

    def arguments(target: _Target) -> Any:
        if target.sharding is None:
            return ocp.RestoreArgs(restore_type=np.ndarray, dtype=target.dtype)
        return ocp.ArrayRestoreArgs(
            restore_type=jax.Array, dtype=target.dtype, sharding=target.sharding, global_shape=target.shape
        )

    item = {name: jax.ShapeDtypeStruct(t.shape, t.dtype) for name, t in targets.items()}
    args = {name: arguments(target) for name, target in targets.items()}
    request = ocp.args.PyTreeRestore(item=unflatten(item), restore_args=unflatten(args), partial_restore=True)
    params = params.resolve()
    with _damage(params), quiet_orbax():
        return ocp.PyTreeCheckpointHandler().restore(params, args=request)


@contextmanager
def _damage(params: Path) -> Iterator[None]:
    """Turns what Orbax and the array store raise on damaged files into one line."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        _drop_late_replies()
        reason = " ".join(str(error).split(" [tensorstore_spec", 1)[0].split()) or type(error).__name__
        raise Owl2Error(f"{params} is damaged: {reason}; copy it again") from error


def _drop_late_replies() -> None:
    """Keeps reads that were under way when another one failed from printing that nobody waits for them."""
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    sys.unraisablehook = hook


def _with_nearest(name: str, options: list[str]) -> str:
    close = nearest(name, options, 1)
    return f"{name} (nearest: {close[0]})" if close else name


def listing(names: Iterable[str]) -> str:
    """Some names for a message."""
    names = sorted(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "nothing"
