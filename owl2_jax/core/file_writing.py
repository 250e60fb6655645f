"""Files that are written whole or not at all, and checks before any work that one can be written.

A reader, or a crash, meets the old content or the new one. What is no file (a
pipe, what a process has open) is written itself.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from owl2_jax.core.buckets import check_writable, told
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_errors import why_not_writable
from owl2_jax.core.new_folders import with_parents
from owl2_jax.core.paths import as_path, in_bucket

_PIECE: Final = 1 << 22  # bytes that are copied at a time
_DESCRIPTORS: Final = re.compile(r"/proc/([^/]+)(?:/task/\d+)?/fd|/dev/fd")  # of folders
_MOST_LINKS: Final = 40


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Replaces a file as a whole: a reader, or a crash, meets the old content or the new one.

    Missing parents are made.

    Raises:
      Owl2Error: the disk is full or the file cannot be written; the old file stays.
    """
    if in_bucket(path):  # where an object appears whole
        with told(path):
            as_path(path).write_bytes(data)
        return
    with new_file(path) as beside, beside.open("wb") as file:
        file.write(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """As `write_bytes`, for text in UTF-8."""
    write_bytes(path, text.encode())


@contextmanager
def new_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a path to write a file to, which gets the name `path` when the block ends without an error.

    It has the ending of `path`, as some writers choose their format by it, and gets the
    permissions of the file it replaces. What is no file, as a pipe, is written itself; so is
    what this process has open, as /dev/stdout, where a shell may have sent it to a file.

    Raises:
      Owl2Error: as `write_bytes`, for every `OSError` of the block.
    """
    if in_bucket(path):
        with _uploaded(as_path(path)) as local:
            yield local
        return
    try:
        descriptor = open_descriptor(path)
        if descriptor is not None:
            with _copied_to(descriptor, Path(path).suffix) as beside:
                yield beside
            return
        if is_stream(Path(path)):
            yield Path(path)
            return
        path = Path(os.path.realpath(path))
        beside = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
        with with_parents(path):
            try:
                yield beside
                with beside.open("rb") as file:
                    os.fsync(file.fileno())
                with suppress(OSError):  # of nothing there, or a file system without permissions
                    beside.chmod(stat.S_IMODE(path.stat().st_mode))
                beside.replace(path)
            finally:
                beside.unlink(missing_ok=True)
    except OSError as error:
        raise Owl2Error(why_not_writable(path, error)) from error


@contextmanager
def _uploaded(path: Path) -> Iterator[Path]:
    """A local path, whose file is written to `path` in a bucket when the block ends without an error."""
    with tempfile.TemporaryDirectory(prefix="owl2-") as folder:
        local = Path(folder, path.name)
        yield local
        with told(path), local.open("rb") as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, _PIECE)


def check_folder(folder: str | os.PathLike, flag: str) -> None:
    """Checks that files can be written into a folder, or that it could be made; makes nothing.

    Args:
      flag: what named the folder, as "--workdir".

    Raises:
      Owl2Error: a file is in the way, or this user may not write there.
    """
    if in_bucket(folder):
        check_writable(folder, flag)
        return
    folder = there = Path(folder)
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    probe = there / f".{uuid.uuid4().hex[:8]}.tmp"
    try:
        try:
            probe.touch()
        finally:
            probe.unlink(missing_ok=True)
    except NotADirectoryError as error:
        raise Owl2Error(f"{flag} {folder} cannot be made: {there} is a file, not a folder") from error
    except OSError as error:
        raise Owl2Error(f"{flag} {why_not_writable(folder, error)}") from error


def check_file(path: str | os.PathLike, flag: str) -> None:
    """As `check_folder`, for a file to be written."""
    path = as_path(path)
    if in_bucket(path):
        check_writable(path.parent, f"{flag} {path}:")
        return
    if path.is_dir():
        raise Owl2Error(f"{flag} {path} is a folder, expected the name of a file")
    try:
        open_descriptor(path)
    except OSError as error:
        raise Owl2Error(f"{flag} {why_not_writable(path, error)}") from error
    if is_stream(path):
        return
    check_folder(path.parent, f"{flag} {path}:")
    if path.exists() and not os.access(path, os.W_OK):
        raise Owl2Error(f"{flag} {path} cannot be written by this user; choose another place")


def is_stream(path: Path) -> bool:
    """Whether what is written there stays in no file of that name: a pipe, a device, or what is open."""
    is_open = _open_file(path) is not None
    return is_open or path.is_fifo() or path.is_char_device() or path.is_socket()


def _open_file(path: str | os.PathLike) -> tuple[str, int] | None:
    """(process, descriptor) of a path that means what a process has open, as /dev/stdout; else None."""
    path = Path(path)
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(path.parent)
        found = _DESCRIPTORS.fullmatch(folder)
        if found and path.name.isdecimal():
            return found.group(1) or str(os.getpid()), int(path.name)
        if not path.is_symlink():
            return None
        path = Path(folder, os.readlink(path))
    return None


def open_descriptor(path: str | os.PathLike) -> int | None:
    """Of `_open_file`, where the process is this one. Raises `OSError` where it has nothing open there."""
    process, descriptor = _open_file(path) or ("", -1)
    if process != str(os.getpid()):
        return None
    os.fstat(descriptor)
    return descriptor


@contextmanager
def _copied_to(descriptor: int, suffix: str) -> Iterator[Path]:
    """Yields a path whose content is written where the descriptor stands, after what was printed there.

    Opened by its path once more, a redirected file would be written over from its start.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"new{suffix}")
        yield path
        sys.stdout.flush()
        with path.open("rb") as source, open(os.dup(descriptor), "wb") as target:
            shutil.copyfileobj(source, target)
