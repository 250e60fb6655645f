"""What tells one checkpoint from another without reading its parameters."""

from __future__ import annotations

import hashlib
from pathlib import Path

from owl2_jax.checkpoint.param_files import is_released_directory, resolve_checkpoint
from owl2_jax.core.buckets import files_below, size_and_version
from owl2_jax.core.paths import as_path

# A released directory: its weights in any of the published forms, and what it is read with.
_RELEASED = ("*.safetensors", "*.bin", "*.json", "*.model")


def checkpoint_identity(path: Path) -> str:
    """16 hexadecimal digits from the names, sizes and times of the files that hold the parameters.

    A run directory stands for its latest step, so training on changes it.

    Raises:
      Owl2Error: There is no checkpoint at `path`.
    """
    path = as_path(path)
    files = _released_files(path) or _own_files(path)
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        size, version = size_and_version(file)
        digest.update(f"{name}\0{size}\0{version}\0".encode())
    return digest.hexdigest()[:16]


def _released_files(path: Path) -> dict[str, Path]:
    if not is_released_directory(path):
        return {}
    return {file.name: file for pattern in _RELEASED for file in path.glob(pattern)}


def _own_files(path: Path) -> dict[str, Path]:
    folder = resolve_checkpoint(path).params
    return {str(file.relative_to(folder)): file for file in files_below(folder)}
