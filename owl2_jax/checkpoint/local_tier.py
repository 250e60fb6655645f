"""Frequent saves on a host's own disk, in front of those that all hosts write together.

    FOLDER/<run>/<attempt>/<process>-of-<processes>/<step>/
        arrays.bin     what this process's devices hold
        index.json     which parts of which arrays, and the rest

Every process writes its own devices' parts, once each, so a save crosses no
network. A step counts where every process finds all the parts that its devices
need, of one attempt (a start of the run); whichever process wrote them, as
processes may be renumbered.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np

from owl2_jax.checkpoint.local_config import LocalConfig
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_errors import why_not_readable, why_not_writable
from owl2_jax.core.file_writing import check_folder
from owl2_jax.core.json_files import read_json_object

_ARRAYS: Final = "arrays.bin"
_INDEX: Final = "index.json"
_UNFINISHED: Final = ".tmp"
_PIECE: Final = 1 << 22  # bytes

Slices = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Part:
    """A part of an array in a file."""

    file: Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]


class LocalTier:
    """A process's saves on its host's disk. Writing goes on in a thread.

    Args:
      run: tells the saves of one run from those of any other.
      attempt: tells this start of the run from the others: above 0, the same on
        every process, and more than at every start before.

    Raises:
      Owl2Error: the folder cannot be written.
    """

    def __init__(self, config: LocalConfig, run: str, attempt: int) -> None:
        check_folder(config.folder, "train.local_checkpoints.folder")
        self._root, self._keep = Path(config.folder) / run, config.keep
        self._attempt = attempt
        self._on_all_hosts: set[tuple[int, int]] = set()
        self._own = self._root / str(attempt) / f"{jax.process_index()}-of-{jax.process_count()}"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="owl2-local-save")
        self._writing: Future[None] | None = None

    def save(self, step: int, state: Any, rest: Mapping[str, Any]) -> None:
        """Copies what this process's devices hold, and starts to write it.

        Args:
          rest: JSON types that belong to the state.

        Raises:
          Owl2Error: the save before could not be written.
        """
        self.wait()
        parts = [
            (name, slices, values)
            for name, leaf in _named(state).items()
            for slices, values in _own_parts(leaf).items()
        ]
        self._writing = self._thread.submit(self._write, step, parts, dict(rest))

    def wait(self) -> None:
        """Waits for the save under way. Raises `Owl2Error` when it failed."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            writing.result()
        except OSError as error:
            raise Owl2Error(f"train.local_checkpoints: {why_not_writable(self._own, error)}") from error

    def saves(self) -> set[tuple[int, int]]:
        """(step, attempt) of which something whole is on this disk."""
        return {
            (int(save.name), int(start.name))
            for start in _inside(self._root)
            if start.name.isdigit()
            for writer in _inside(start)
            for save in _inside(writer)
            if save.name.isdigit()
        }

    def prefer(self, on_all_hosts: set[tuple[int, int]]) -> None:
        """Tells which saves of earlier starts every host has: of those alone can one still be read."""
        self._on_all_hosts = on_all_hosts

    def read(self, step: int, attempt: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """(the state, what was saved with it) of a step that an attempt saved.

        Args:
          like: shapes with shardings, of the state to read.

        Raises:
          Owl2Error: this disk lacks a part that this process's devices need, or has a damaged file.
        """
        parts, rest = self._parts(step, attempt)
        leaves, structure = jax.tree_util.tree_flatten_with_path(like)
        read = [_placed(jax.tree_util.keystr(path), leaf, parts) for path, leaf in leaves]
        return jax.tree_util.tree_unflatten(structure, read), rest

    def _parts(self, step: int, attempt: int) -> tuple[dict[tuple[str, Slices], _Part], dict[str, Any]]:
        """All parts of one save that are on this disk, and what was saved with them."""
        parts: dict[tuple[str, Slices], _Part] = {}
        rest: dict[str, Any] = {}
        for folder in sorted(self._root.glob(f"{attempt}/*-of-*/{step}")):
            index = read_json_object(folder / _INDEX)
            rest = index["rest"]
            for one in index["parts"]:
                slices = tuple((start, stop) for start, stop in one["slices"])
                shape = tuple(stop - start for start, stop in slices)
                where = _Part(folder / _ARRAYS, one["offset"], jax.numpy.dtype(one["dtype"]), shape)
                parts[one["name"], slices] = where
        return parts, rest

    def _write(self, step: int, parts: list[tuple[str, Slices, np.ndarray]], rest: dict[str, Any]) -> None:
        self._remove_leftovers()
        beside, folder = self._own / f".{step}{_UNFINISHED}", self._own / str(step)
        try:
            beside.mkdir(parents=True)
            _write_parts(beside, parts, rest)
            _remove(folder)
            beside.replace(folder)
        except BaseException:
            _remove(beside)  # a disk that is full must not stay so
            raise
        self._remove_oldest()

    def _remove_leftovers(self) -> None:
        """Removes what saves that were cut off left, and starts that left nothing whole."""
        whole = {str(attempt) for _, attempt in self.saves()} | {str(self._attempt)}
        for start in _inside(self._root):
            if start.name not in whole:
                _remove(start)
                continue
            # Other processes of this start may be writing theirs.
            writers = [self._own] if start.name == str(self._attempt) else _inside(start)
            for part in (part for writer in writers for part in _inside(writer)):
                if part.suffix == _UNFINISHED:
                    _remove(part)

    def _remove_oldest(self) -> None:
        """Keeps the newest saves, of whichever start; of this one, each process removes its own."""

        def worth(save: tuple[int, int]) -> tuple[bool, int, int]:
            step, attempt = save
            return save in self._on_all_hosts or attempt == self._attempt, attempt, step

        for step, attempt in sorted(self.saves(), key=worth, reverse=True)[self._keep :]:
            is_own = attempt == self._attempt
            for writer in [self._own] if is_own else _inside(self._root / str(attempt)):
                _remove(writer / str(step))

    def close(self) -> None:
        """Waits for the save under way; that it failed is no matter any more."""
        with suppress(Owl2Error):
            self.wait()
        self._thread.shutdown()


def _write_parts(folder: Path, parts: list[tuple[str, Slices, np.ndarray]], rest: dict[str, Any]) -> None:
    index, offset = [], 0
    with (folder / _ARRAYS).open("wb", buffering=0) as file:
        for name, slices, values in parts:
            data = memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
            index.append({"name": name, "slices": slices, "dtype": values.dtype.name, "offset": offset})
            offset += len(data)
            while data:
                data = data[file.write(data[:_PIECE]) :]
        os.fsync(file.fileno())
    (folder / _INDEX).write_text(json.dumps({"parts": index, "rest": rest}))


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _inside(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where it is none any more, as another process may have removed it."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _named(state: Any) -> dict[str, jax.Array]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _own_parts(leaf: jax.Array) -> dict[Slices, np.ndarray]:
    """What this process's devices hold of an array, each part once, in this host's memory."""
    parts: dict[Slices, np.ndarray] = {}
    for shard in leaf.addressable_shards:
        slices = _slices(shard.index, leaf.shape)
        if slices not in parts:
            parts[slices] = np.array(shard.data)  # a copy, as the next step takes over the memory
    return parts


def _slices(index: tuple[slice, ...], shape: tuple[int, ...]) -> Slices:
    bounds = (one.indices(size) for one, size in zip(index, shape, strict=True))
    return tuple((start, stop) for start, stop, _ in bounds)


def _placed(name: str, like: Any, parts: Mapping[tuple[str, Slices], _Part]) -> jax.Array:
    """An array on this process's devices, each part read once."""
    read: dict[Slices, np.ndarray] = {}
    arrays = []
    for device, index in like.sharding.addressable_devices_indices_map(like.shape).items():
        slices = _slices(index, like.shape)
        if slices not in read:
            if (name, slices) not in parts or parts[name, slices].dtype != like.dtype:
                raise Owl2Error(f"this host's disk lacks a part of {name}")
            read[slices] = _read(parts[name, slices])
        arrays.append(jax.device_put(read[slices], device))
    return jax.make_array_from_single_device_arrays(like.shape, like.sharding, arrays)


def _read(part: _Part) -> np.ndarray:
    size = int(np.prod(part.shape, dtype=np.int64)) * part.dtype.itemsize
    try:
        data = np.fromfile(part.file, np.uint8, size, offset=part.offset)
    except OSError as error:
        raise Owl2Error(why_not_readable(part.file, error)) from error
    if data.nbytes != size:
        raise Owl2Error(f"{part.file} is cut off")
    return data.view(part.dtype).reshape(part.shape)
