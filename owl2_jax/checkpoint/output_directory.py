"""Directories that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import RawIOBase
from pathlib import Path
from typing import Final

import numpy as np

from owl2_jax.core.buckets import remove_folder, told
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_errors import is_no_room
from owl2_jax.core.paths import as_path, in_bucket

_PIECE: Final = 1 << 18  # bytes


@contextmanager
def new_directory(output: str | Path, needed_bytes: int = 0) -> Iterator[Path]:
    """A directory to fill; it gets the name `output` when the block ends without an error.

    It lies beside `output` under a hidden name, so that a reader never meets a
    half-written one, and is removed when the block fails. Everything in it is
    on the disk before it is renamed.

    A bucket renames nothing: there it is filled under its own name, and removed when
    the block fails. Whoever fills it writes last what a reader asks for first.

    Args:
      output: must not exist yet; missing parents are made.
      needed_bytes: what will be written, checked against the free space first.

    Raises:
      Owl2Error: `output` exists, or the disk is full or not writable.
    """
    if in_bucket(output):
        with _new_in_bucket(as_path(output)) as folder:
            yield folder
        return
    output = Path(output)
    refuse_existing(output)
    partial = output.parent / f".{output.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _check_space(output, needed_bytes)
        partial.mkdir()
        yield partial
        _flush(partial)
        refuse_existing(output)
        partial.rename(output)
    except (OSError, ValueError, RuntimeError) as error:
        message = _write_error(output, error)
        if message is None:
            raise
        raise Owl2Error(message) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _new_in_bucket(output: Path) -> Iterator[Path]:
    refuse_existing(output)
    try:
        with told(output):
            yield output
    except BaseException:
        with suppress(Owl2Error):
            remove_folder(output)
        raise


def write_all(file: RawIOBase, values: np.ndarray) -> None:
    """Writes the bytes of an array to an unbuffered file, in small pieces.

    One call for a large array costs the kernel up to ten times as much as
    calls of a quarter megabyte do.
    """
    data = memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
    while data:
        data = data[file.write(data[:_PIECE]) :]


def refuse_existing(output: str | Path) -> None:
    """Raises `Owl2Error` when `output` exists; call it before long work as well."""
    if in_bucket(output):
        with told(output):
            there = as_path(output).exists()
    else:
        there = os.path.lexists(output)
    if there:
        raise Owl2Error(f"output {output} exists; choose another name or remove it first")


def _check_space(output: Path, needed: int) -> None:
    free = shutil.disk_usage(output.parent).free
    if needed > free:
        raise Owl2Error(
            f"output {output} needs {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free; "
            "choose a disk with more room"
        )


def _write_error(output: Path, error: Exception) -> str | None:
    """The line for an error of the disk; None when the error is of another kind."""
    if is_no_room(error):
        return f"no space left while writing {output}; nothing was kept: make room and run it again"
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        return f"cannot write {output}: {error.strerror or error}"
    return None


def _flush(directory: Path) -> None:
    """Asks the disk to keep every file of `directory`."""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
