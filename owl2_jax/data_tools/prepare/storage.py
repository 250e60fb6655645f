"""Paths of this machine, of buckets, and of Beam's other file systems alike.

ArrayRecord's writer and reader want local files; a remote one goes through a
temporary copy. A file gets its name only when it is whole.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from owl2_jax.core import buckets, file_writing, json_files
from owl2_jax.core.json_files import Json
from owl2_jax.core.paths import as_path, in_bucket


def is_local(path: str) -> bool:
    """Whether a path is one of this machine and no URL."""
    return "://" not in path


def join(path: str, *names: str) -> str:
    """A path below another, by the rules of its file system."""
    return "/".join([path.rstrip("/"), *names]) if in_bucket(path) else FileSystems.join(path, *names)


def split(path: str) -> tuple[str, str]:
    """(folder, name)."""
    if in_bucket(path):
        head, _, name = path.rpartition("/")
        return head, name
    head, name = FileSystems.split(path)
    return head or ".", name


def exists(path: str) -> bool:
    """Whether there is something at a path."""
    if in_bucket(path):
        return buckets.exists(path)
    return FileSystems.exists(path)


def size(path: str) -> int:
    """Bytes of a file."""
    if in_bucket(path):
        return buckets.info(path)["size"]
    return FileSystems.match([path])[0].metadata_list[0].size_in_bytes


@contextmanager
def new_file(path: str) -> Iterator[str]:
    """Yields a local path to write; the file appears at `path` when the block ends without an error."""
    if is_local(path) or in_bucket(path):
        with file_writing.new_file(path) as part:
            yield str(part)
        return
    _make_parent(path)
    with tempfile.TemporaryDirectory() as folder:
        partial = os.path.join(folder, "file")
        yield partial
        with open(partial, "rb") as source, FileSystems.create(path) as target:
            shutil.copyfileobj(source, target)


@contextmanager
def local_copy(path: str) -> Iterator[str]:
    """Yields a local path with the contents of `path`."""
    if is_local(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "file")
        if in_bucket(path):
            buckets.download(path, Path(copy))
        else:
            with FileSystems.open(path) as source, open(copy, "wb") as target:
                shutil.copyfileobj(source, target)
        yield copy


def move(source: str, target: str, last: str = "") -> None:
    """Renames a file or a folder; on a local disk at once, in a bucket file by file.

    Args:
      last: the name of a file of the folder that comes after all others.
    """
    if in_bucket(source):
        buckets.move(source, target, last=last)
        return
    _make_parent(target)
    FileSystems.rename([source], [target])


def remove(path: str) -> None:
    """Removes a file, or a folder with all it holds, if it is there."""
    if in_bucket(path):
        buckets.remove_folder(as_path(path))
    elif is_local(path) and os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    elif exists(path):
        FileSystems.delete([path])


def write_json(path: str, values: Json) -> None:
    """Writes a whole file of JSON, or nothing."""
    with new_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(json.dumps(values, indent=1) + "\n")


def read_json(path: str) -> Json:
    """The values of a file of JSON. Raises `Owl2Error` where it is none."""
    if in_bucket(path):
        return json_files.read_json(path)
    with FileSystems.open(path) as file:
        return json_files.parse_json(file.read(), path)


def _make_parent(path: str) -> None:
    parent = FileSystems.split(path)[0]
    if is_local(path):
        os.makedirs(parent, exist_ok=True)
