"""Parameter trees out of Orbax checkpoints: whole onto devices, or leaf by leaf."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from owl2_jax.checkpoint.array_store import is_stacked, longest_axis, quiet_orbax
from owl2_jax.checkpoint.orbax_s3 import know_s3
from owl2_jax.core.buckets import key_values, told
from owl2_jax.core.errors import Owl2Error, nearest, unknown_name
from owl2_jax.core.paths import absolute, as_path, in_bucket
from owl2_jax.core.tree import Params, PyTree, Tree, flatten, unflatten

if TYPE_CHECKING:
    import jax

_ORBAX_METADATA: Final = "_METADATA"  # Orbax writes it last
_OCDBT_MANIFEST: Final = "manifest.ocdbt"  # there when all arrays share one database
_SHOWN: Final = 5  # names listed in a message


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

    params = absolute(params)
    check_complete(params)
    know_s3(params)
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
    params: str | Path,
    abstract: Tree | None = None,
    shardings: PyTree = None,
    each: Callable[[str, Any], Mapping[str, Any]] | None = None,
) -> Params:
    """Loads a parameter tree, each device reading only what it will hold.

    Args:
      params: an Orbax checkpoint (`Checkpoint.params`), as written by
        `write_params` or by a checkpoint manager.
      abstract: nested dict of `jax.ShapeDtypeStruct`; leaves are cast to its
        dtypes. A leaf with a sharding becomes a `jax.Array` on its mesh, one
        without a numpy array. None loads what is there, as numpy arrays.
      shardings: one sharding for all leaves, or a tree of them; in place of
        those in `abstract`.
      each: (name, leaf) to the leaves that take its place, by name; then one leaf is read after the
        other, so that no more than one is there as it was stored.

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
    if each is None:
        return _restore(as_path(params), targets)
    leaves: dict[str, Any] = {}
    for name, target in targets.items():
        leaves |= each(name, flatten(_restore(as_path(params), {name: target}))[name])
    return unflatten(leaves)


class ParamsReader:
    """An Orbax checkpoint read one leaf, or some layers of one, at a time.

    Attributes:
      shapes, dtypes: by name, of what is stored.

    Raises:
      Owl2Error: the checkpoint is missing or damaged.
    """

    def __init__(self, params: str | Path) -> None:
        self._params = absolute(params)
        stored = stored_arrays(params)
        self.shapes = {name: shape for name, (shape, _) in stored.items()}
        self.dtypes = {name: dtype for name, (_, dtype) in stored.items()}

    def read(self, name: str) -> np.ndarray:
        """The leaf `name` as a numpy array of its stored dtype."""
        with _damage(self._params):
            return self._open(name).read().result()

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """The leaf in pieces, in order, as large as it is stored in.

        They lie along the axis of its layers, or along its longest (`array_store.StreamedLeaf.axis`).
        """
        with _damage(self._params):
            store = self._open(name)
            axis = 0 if is_stacked(name) else longest_axis(store.shape)
            starts = range(0, store.shape[axis], store.chunk_layout.read_chunk.shape[axis])
            ahead: list[Any] = []
            for start in starts:
                along = slice(start, min(start + starts.step, starts.stop))
                ahead.append(store[(*(slice(None),) * axis, along)].read())
                if start:  # one piece is on its way while the last one is used
                    yield ahead.pop(0).result()
            yield ahead.pop(0).result()

    def _open(self, name: str) -> Any:
        if name not in self.shapes:
            raise unknown_name(f"parameter of {self._params}", name, self.shapes)
        import tensorstore

        stored_as = name.replace("/", ".")
        kvstore: dict[str, Any] = key_values(self._params)
        if (self._params / _OCDBT_MANIFEST).exists():
            kvstore = {"driver": "ocdbt", "base": kvstore, "path": f"{stored_as}/"}
        else:
            kvstore = key_values(self._params / stored_as)
        tree = json.loads((self._params / _ORBAX_METADATA).read_bytes())
        driver = "zarr3" if tree.get("use_zarr3") else "zarr"
        spec = {"driver": driver, "kvstore": kvstore, "fill_missing_data_reads": False}
        return tensorstore.open(spec, open=True, read=True).result()


@dataclass(frozen=True)
class _Target:
    shape: tuple[int, ...]
    dtype: np.dtype
    sharding: jax.sharding.Sharding | None


def _restore(params: Path, targets: Mapping[str, _Target]) -> Params:
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
    params = absolute(params)
    with _damage(params), quiet_orbax():
        return ocp.PyTreeCheckpointHandler().restore(params, args=request)


@contextmanager
def _damage(params: Path) -> Iterator[None]:
    """Turns what Orbax and the array store raise on damaged files into one line."""
    drop_late_replies()  # before the first read: a reply may come while the error is on its way
    try:
        with told(params) if in_bucket(params) else nullcontext():
            yield
    except Owl2Error:
        raise
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split(" [tensorstore_spec", 1)[0].split()) or type(error).__name__
        raise Owl2Error(f"{params} is damaged: {reason}; copy it again") from error


def drop_late_replies() -> None:
    """Keeps reads and writes beside one that failed from printing that nobody waits for them.

    The first error is raised. What follows it would be tracebacks of Orbax,
    now and then, as the timing will have it.
    """
    if not isinstance(sys.unraisablehook, _WithoutLateReplies):
        sys.unraisablehook = _WithoutLateReplies(sys.unraisablehook)
    logging.getLogger("asyncio").addFilter(_is_no_late_reply)  # counts once


@dataclass(frozen=True)
class _WithoutLateReplies:
    """The hook `previous` for all but replies to an event loop that has ended."""

    previous: Callable[[Any], None]

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self.previous(unraisable)


def _is_no_late_reply(record: logging.LogRecord) -> bool:
    """False for what an event loop logs of Orbax's tasks: errors that nobody received, and tasks cut off."""
    trace = record.exc_info[2] if record.exc_info else None
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace)]
    message = record.getMessage()
    return "tensorstore_spec=" not in message and not any("/orbax/" in place for place in (message, *files))


def _with_nearest(name: str, options: list[str]) -> str:
    close = nearest(name, options, 1)
    return f"{name} (nearest: {close[0]})" if close else name


def listing(names: Iterable[str]) -> str:
    """Some names for a message."""
    names = sorted(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "nothing"
