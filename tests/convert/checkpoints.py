"""Small PyTorch checkpoints for the tests of this room."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from owl2_jax.convert.source import Source

GOLDEN = Path(__file__).parents[1] / "golden"
LAYOUTS = ("A/hf", "A/hf_sharded", "A/hf_sharded_bin", "B/hf", "F/hf")


def copy(layout: str, target: Path) -> Path:
    """A golden checkpoint that the test may change."""
    shutil.copytree(GOLDEN / layout, target)
    return target


def edit_config(directory: Path, **changes: Any) -> None:
    """Changes entries of config.json; "a__b" reaches into a group."""
    path = directory / "config.json"
    values = json.loads(path.read_text())
    for name, value in changes.items():
        *groups, last = name.split("__")
        node = values
        for group in groups:
            node = node[group]
        node[last] = value
    path.write_text(json.dumps(values))


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of a float32 checkpoint, as torch tensors."""
    source = Source(directory)
    return {name: torch.from_numpy(source.read(name)) for name in source.specs}


def rewrite(directory: Path, values: Mapping[str, torch.Tensor], name: str = "model.safetensors") -> None:
    """Replaces the weights by `values`, written by PyTorch or the safetensors library."""
    for old in (*directory.glob("*.safetensors*"), *directory.glob("*.bin*")):
        old.unlink()
    if name.endswith(".bin"):
        torch.save(dict(values), directory / name)
    else:
        save_file({key: value.contiguous() for key, value in values.items()}, directory / name)


def bits(values: Any) -> bytes:
    """Bytes of a numpy array or torch tensor, of any dtype."""
    if isinstance(values, torch.Tensor):
        return (
            values.contiguous().view(torch.uint8).numpy().tobytes()
            if values.ndim
            else values.numpy().tobytes()
        )
    return np.ascontiguousarray(values).tobytes()
