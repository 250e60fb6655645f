"""A directory of PyTorch weights as one set of named tensors, read one at a time.

Layouts, in the order in which the original looks for them: `model.safetensors`,
else shards with `model.safetensors.index.json`; `pytorch_model.bin`, else
shards with `pytorch_model.bin.index.json`. The first that is there is read.
What a wrapper of training puts in front of every name is taken off.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any, Final, Protocol

import numpy as np

from owl2_jax.convert.key_rules import shown
from owl2_jax.convert.pickled_file import PickledReader
from owl2_jax.convert.safetensors_file import SafetensorsReader, TensorSpec
from owl2_jax.core.buckets import check_readable, is_folder, names_in
from owl2_jax.core.errors import Owl2Error, nearest
from owl2_jax.core.file_errors import why_not_readable
from owl2_jax.core.json_files import read_json_object
from owl2_jax.core.paths import as_path, in_bucket

LAYOUTS: Final = ("model.safetensors", "pytorch_model.bin")
# Put in front of names by DistributedDataParallel, torch.compile and FSDP.
_WRAPPERS: Final = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")


class TensorFile(Protocol):
    """One file of tensors."""

    specs: Mapping[str, TensorSpec]

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """A tensor, or `rows` of its first axis."""


class Source:
    """All tensors of a directory: `specs` by name, `read(name)` for one or some rows of it.

    Attributes:
      directory: what was given.
      where: the same, for messages.
      config_path: its config.json.
      specs: shape and dtype of every tensor, by name.
      notes: what a user should know of how the directory was read, a line each.

    Raises:
      Owl2Error: no weights, a missing or damaged shard, an index that names a
        tensor no shard has, or a shard with tensors the index does not name.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = as_path(directory)
        self.where = str(directory)
        self.config_path = self.directory / "config.json"
        self.notes: list[str] = []
        check_directory(self.directory)
        files = _open_files(self.directory, self.notes)
        wrapper = wrapper_of(files)
        if wrapper:
            self.notes.append(f"every tensor of {self.where} has {wrapper} before its name; it was taken off")
        self._files = {name.removeprefix(wrapper): (name, file) for name, file in files.items()}
        self.specs = {name: file.specs[theirs] for name, (theirs, file) in self._files.items()}

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """A tensor by its plain name, or `rows` of its first axis."""
        theirs, file = self._files[name]
        return file.read(theirs, rows)

    def config(self) -> dict[str, Any]:
        """The parsed `config.json`. Raises `Owl2Error` when it is missing or damaged."""
        return read_json_object(self.config_path)


def check_directory(directory: Path, flag: str = "") -> None:
    """Raises `Owl2Error`, which begins with `flag`, for what is no directory."""
    if in_bucket(directory):
        check_readable(directory)
    if not is_folder(directory):
        kind = "a file" if directory.exists() else "not a directory"
        raise Owl2Error(f"{flag}{directory} is {kind}; expected a directory with weights")


def wrapper_of(names: Iterable[str]) -> str:
    """What a wrapper put before all of the names; empty when they do not share one.

    With names of both kinds it stays, as two tensors may then want one name.
    """
    names, found = list(names), ""
    while names:
        rest = [name[len(found) :] for name in names]
        more = next((w for w in _WRAPPERS if all(name.startswith(w) for name in rest)), "")
        if not more:
            return found
        found += more
    return found


def _open_files(directory: Path, notes: list[str]) -> dict[str, TensorFile]:
    """{tensor name: the file that has it}; may add to `notes`."""
    try:
        names = names_in(directory)
    except OSError as error:
        raise Owl2Error(why_not_readable(directory, error)) from error
    for name in LAYOUTS:
        index, whole = directory / f"{name}.index.json", directory / name
        if name in names:
            if index.name in names:
                notes.append(
                    f"{whole} was read, as the original does, and {index.name} beside it was not; remove "
                    f"{index.name} if it is left over, or {name} if the shards are meant"
                )
            file = _open(whole)
            return dict.fromkeys(file.specs, file)
        if index.name in names:
            return _open_shards(index, names)
    raise Owl2Error(
        f"{directory} holds no weights: expected {' or '.join(LAYOUTS)}, or the same in shards with "
        f"an index; found {', '.join(names[:8]) or 'nothing'}"
    )


def _open(path: Path) -> TensorFile:
    return SafetensorsReader(path) if path.suffix == ".safetensors" else PickledReader(path)


def _way_out(names: Container[str], shard: object) -> str:
    """What to write in an index in place of a path."""
    base = PureWindowsPath(shard).name if isinstance(shard, str) and "\0" not in shard else ""
    if base and base in names:
        return f"{base} is beside the index: write that, for all of its entries"
    return "put the shards beside the index, and write their names without folders"


def _open_shards(index: Path, names: Container[str]) -> dict[str, TensorFile]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise Owl2Error(f"{index} has no weight_map")
    shards: dict[str, TensorFile] = {}
    for name, shard in weight_map.items():
        plain = isinstance(shard, str) and shard not in ("", "..") and PureWindowsPath(shard).name == shard
        if not plain or "\0" in shard:
            raise Owl2Error(
                f"{index}: shard {shown(shard)} of {name} is no plain file name; {_way_out(names, shard)}"
            )
    for shard in sorted(set(weight_map.values())):
        path = index.parent / shard
        if shard not in names:
            raise Owl2Error(f"{path} is missing; {index.name} names it; copy the shard again")
        shards[shard] = _open(path)
    for name, shard in weight_map.items():
        if name not in shards[shard].specs:
            close = nearest(name, shards[shard].specs, 1)
            hint = f" (nearest: {close[0]})" if close else ""
            raise Owl2Error(f"{index} says {name!r} is in {shard}, which does not have it{hint}")
    for shard, file in shards.items():
        stray = [name for name in file.specs if weight_map.get(name) != shard]
        if stray:
            raise Owl2Error(
                f"{index.parent / shard} has tensors that {index.name} does not place there: {stray[:4]}"
            )
    return {name: shards[shard] for name, shard in weight_map.items()}
