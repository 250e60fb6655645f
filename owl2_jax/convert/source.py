"""A directory of PyTorch weights as one set of named tensors, read one at a time.

Layouts: `model.safetensors`, or shards with `model.safetensors.index.json`;
`pytorch_model.bin`, or shards with `pytorch_model.bin.index.json`. Safetensors
are taken when both are there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from owl2_jax.convert.pickled_file import PickledReader
from owl2_jax.convert.safetensors_file import SafetensorsReader, TensorSpec
from owl2_jax.core.errors import Owl2Error, nearest

LAYOUTS: Final = ("model.safetensors", "pytorch_model.bin")


class TensorFile(Protocol):
    """One file of tensors."""

    specs: Mapping[str, TensorSpec]

    def read(self, name: str) -> np.ndarray: ...


class Source:
    """All tensors of a directory: `specs` by name, `read(name)` for one.

    Raises:
      Owl2Error: no weights, a missing or damaged shard, an index that names a
        tensor no shard has, or a shard with tensors the index does not name.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise Owl2Error(f"{self.directory} is no directory; expected one with config.json and weights")
        self._files = _open_files(self.directory)
        self.specs = {name: file.specs[name] for name, file in self._files.items()}

    def read(self, name: str) -> np.ndarray:
        return self._files[name].read(name)

    def config(self) -> dict[str, Any]:
        """The parsed `config.json`."""
        return read_json(self.directory / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises `Owl2Error` when it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Owl2Error(f"{path} is missing") from None
    except (ValueError, OSError) as error:
        raise Owl2Error(f"{path} is not readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise Owl2Error(f"{path} should hold a JSON object, found {type(value).__name__}")
    return value


def _open_files(directory: Path) -> dict[str, TensorFile]:
    """{tensor name: the file that has it}."""
    for name in LAYOUTS:
        index = directory / f"{name}.index.json"
        if index.exists():
            return _open_shards(index)
        if (directory / name).exists():
            file = _open(directory / name)
            return dict.fromkeys(file.specs, file)
    raise Owl2Error(
        f"{directory} holds no weights: expected {' or '.join(LAYOUTS)}, or the same in shards with "
        f"an index; found {', '.join(sorted(p.name for p in directory.iterdir())[:8]) or 'nothing'}"
    )


def _open(path: Path) -> TensorFile:
    return SafetensorsReader(path) if path.suffix == ".safetensors" else PickledReader(path)


def _open_shards(index: Path) -> dict[str, TensorFile]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise Owl2Error(f"{index} has no weight_map")
    shards: dict[str, TensorFile] = {}
    for shard in sorted(set(map(str, weight_map.values()))):
        path = index.parent / shard
        if Path(shard).name != shard:
            raise Owl2Error(f"{index}: shard {shard!r} is no plain file name")
        if not path.exists():
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
