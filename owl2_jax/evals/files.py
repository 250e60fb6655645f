"""Reading the files that the authors of a benchmark publish.

Nothing is downloaded. A file that is missing, cut off or of another shape is an
error that names the file, where it comes from and where it belongs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owl2_jax.core import file_errors, json_files
from owl2_jax.core.buckets import exists, names_in
from owl2_jax.core.errors import Owl2Error, nearest
from owl2_jax.core.json_files import Json, json_kind, parse_json
from owl2_jax.core.paths import as_path, in_bucket
from owl2_jax.core.text_files import lines, read_text
from owl2_jax.evals.broken import At, Broken


@dataclass(frozen=True)
class DataFile:
    """A file or folder under `--data-root`, and who publishes it.

    Attributes:
      path: Relative to the data root.
      source: The page that offers it.
    """

    path: str
    source: str

    def require(self, root: Path) -> Path:
        """The full path; raises `Owl2Error` when nothing is there, or nothing that this user may read."""
        root = as_path(root)
        full = root / self.path
        if in_bucket(root):
            if exists(full):
                return full
            raise Owl2Error(self._missing(root, full))
        try:
            full.stat()
        except PermissionError as error:
            raise Owl2Error(file_errors.why_not_readable(full, error)) from error
        except OSError as error:
            raise Owl2Error(self._missing(root, full)) from error
        if not os.access(full, os.R_OK):
            raise Owl2Error(f"{full} is there, but this user may not read it; change its permissions")
        return full

    def _missing(self, root: Path, full: Path) -> str:
        message = (
            f"{full} is missing. Get {full.name} from {self.source} "
            f"and put it at {self.path} under --data-root"
        )
        if not root.is_dir():
            kind = "is a file, not a folder" if root.exists() else "is missing itself"
            return f"{message} (the data root {root} {kind})"
        elsewhere = [path for path in (root / full.name, *root.glob(f"*/{full.name}")) if path.exists()]
        if elsewhere:
            return f"{message} (there is {elsewhere[0]})"
        near = nearest(full.name, names_in(full.parent), count=1) if full.parent.is_dir() else []
        return f"{message} (there is {near[0]} beside it)" if near else message


def read_json(path: Path, *keys: str) -> Json:
    """The value of a JSON file, or of the nested `keys` in it."""
    value = json_files.read_json(path)
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            found = ", ".join(map(str, list(value)[:6])) if isinstance(value, Mapping) else json_kind(value)
            raise Owl2Error(f"{path} has no key {key!r} (found: {found}); is it the file of this benchmark?")
        value = value[key]
    return value


def read_rows(path: Path, *keys: str) -> list[Json]:
    """As `read_json`, where the value must be a list."""
    return _of_kind(path, read_json(path, *keys), list, "a list of rows", keys)


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """As `read_json`, where the value must be an object."""
    return _of_kind(path, read_json(path, *keys), dict, "an object", keys)


def _of_kind(path: Path, value: object, kind: type, expected: str, keys: tuple[str, ...]) -> Json:
    if not isinstance(value, kind):
        where = "".join(f" under {key!r}" for key in keys)
        raise Owl2Error(f"{path} holds {json_kind(value)}{where}; expected {expected}")
    return value


def read_json_lines(path: Path) -> list[At[Json] | Broken]:
    """The values of a file with one JSON value a line; blank lines are none. Raises `Owl2Error`."""
    rows: list[At[Json] | Broken] = []
    for number, line in enumerate(lines(read_text(path)), 1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            rows.append(At(place, parse_json(line, "it")))
        except Owl2Error as error:
            rows.append(Broken(str(path), place, str(error).removeprefix("it ")))
    return rows
