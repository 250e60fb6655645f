"""Text and JSON files, read and written in one way everywhere.

Text is UTF-8; a byte-order mark at its start is skipped. Lines end at line
feeds alone, so U+2028, U+2029 and U+0085 may stand in a line. What a user
can have put there instead (UTF-16, a git-lfs pointer, a web page, a folder) is
named as what it is.
"""

from __future__ import annotations

import errno
import json
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
from typing import Any, Final

from owl2_jax.core.buckets import check_writable, told, why_not
from owl2_jax.core.errors import Owl2Error, nearest
from owl2_jax.core.new_folders import with_parents
from owl2_jax.core.paths import as_path, in_bucket

BOM: Final = b"\xef\xbb\xbf"
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an `OSError`
# How libraries word the same in errors of their own types.
_NO_ROOM_WORDS: Final = ("RESOURCE_EXHAUSTED", "No space left", "File too large", "quota exceeded")
_PIECE: Final = 1 << 22  # bytes that are copied at a time
_LFS: Final = b"version https://git-lfs.github.com/spec/"
_PACKED: Final = {
    b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz", b"7z\xbc\xaf\x27\x1c": "7z",
}  # fmt: skip
_DESCRIPTORS: Final = re.compile(r"/proc/([^/]+)(?:/task/\d+)?/fd|/dev/fd")  # of folders
_MOST_LINKS: Final = 40
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")


class _DoubledKeyError(Owl2Error):
    """An object of JSON has a key twice."""


def read_bytes(path: str | os.PathLike) -> bytes:
    """The bytes of a file. Raises `Owl2Error` with the cause of `why_not_readable`."""
    try:
        return as_path(path).read_bytes()
    except Exception as error:
        raise unreadable(path, error) from error


def read_text(path: str | os.PathLike) -> str:
    """The text of a file. Raises `Owl2Error`: not readable, or no UTF-8."""
    return decode(read_bytes(path), str(path))


def decode(data: bytes, name: str) -> str:
    """Bytes of UTF-8, with or without a byte-order mark, as text.

    Raises:
      Owl2Error: `name` with what the bytes are instead.
    """
    wrong = what_instead(data)
    if wrong:
        raise Owl2Error(f"{name} is {wrong}")
    try:
        return data.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Owl2Error(
            f"{name} is not UTF-8 text: byte {data[error.start]:#04x} at offset {error.start}; "
            "save it as UTF-8, or fetch it again"
        ) from error


def what_instead(data: bytes) -> str | None:
    """Names what bytes are that should be UTF-8 text and certainly are not; None otherwise.

    The beginning of the file is enough.
    """
    start = data[:256]
    if packed_as(start):
        return f"a {packed_as(start)} file; unpack it first"
    if start.startswith(_LFS):
        return "a git-lfs pointer, not the file itself; run git lfs pull"
    if start.startswith(_UTF_16) or (len(start) >= 4 and start.count(0) * 3 >= len(start)):
        return "UTF-16, not UTF-8; save it as UTF-8"
    return None


def packed_as(data: bytes) -> str | None:
    """The name of the compression or archive that bytes begin as; None for anything else."""
    return next((kind for magic, kind in _PACKED.items() if data.startswith(magic)), None)


def is_web_page(data: bytes) -> bool:
    """Says whether bytes begin as a page of HTML, which a failed download leaves."""
    start = data[:256].removeprefix(BOM).lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))


def not_downloaded(path: str | os.PathLike) -> str | None:
    """Names what stands in place of a binary file that was never fetched; None for anything else.

    Raises:
      Owl2Error: the file is not readable.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(256)
    except OSError as error:
        raise Owl2Error(why_not_readable(path, error)) from error
    return what_was_downloaded(start) if start else "empty; fetch the file again"


def what_was_downloaded(data: bytes) -> str | None:
    """Names what bytes are that came in place of a binary file; None for anything else."""
    if data.startswith(_LFS):
        return what_instead(data)
    return "a web page; the download was refused, fetch the file again" if is_web_page(data) else None


def lines(text: str) -> list[str]:
    """The lines of a text without their ends ("\\n" or "\\r\\n")."""
    parts = text.split("\n")
    if not parts[-1]:
        parts.pop()
    return [part.removesuffix("\r") for part in parts]


def parse_json(text: str | bytes, name: str, one_of_each_key: bool = False) -> Any:
    """The value of a JSON text.

    Args:
      one_of_each_key: refuse an object with a key twice; the last one wins otherwise.

    Raises:
      Owl2Error: no JSON, with what it is instead where that can be told.
    """
    if isinstance(text, bytes):
        text = decode(text, name)
    try:
        return json.loads(text, object_pairs_hook=without_doubles if one_of_each_key else None)
    except _DoubledKeyError as error:
        raise Owl2Error(f"{name} is not to be read: {error}") from error
    except RecursionError as error:
        raise Owl2Error(f"{name} is nested too deep to be read") from error
    except ValueError as error:
        raise Owl2Error(f"{name} is not valid JSON: {_why_not_json(text, error)}") from error


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, as `object_pairs_hook`. Raises `Owl2Error` for a key that stands twice."""
    value: dict[str, Any] = {}
    for name, inner in pairs:
        if name in value:
            raise _DoubledKeyError(f"the key {name!r:.60} stands twice in an object; keep one")
        value[name] = inner
    return value


def read_json(path: str | os.PathLike, one_of_each_key: bool = False) -> Any:
    """The value of a JSON file; `one_of_each_key` is as for `parse_json`.

    Raises:
      Owl2Error: not readable, or no JSON.
    """
    return parse_json(read_bytes(path), str(path), one_of_each_key)


def json_kind(value: Any) -> str:
    """What a value is called in JSON: "an object", "a list", "a text", "a number", or its own word."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    kinds = {str: "a text", dict: "an object", list: "a list", int: "a number", float: "a number"}
    return next((word for kind, word in kinds.items() if isinstance(value, kind)), type(value).__name__)


def read_json_object(path: str | os.PathLike) -> dict[str, Any]:
    """As `read_json`, where the value must be an object, and no key may stand twice: these are settings."""
    value = read_json(path, one_of_each_key=True)
    if not isinstance(value, dict):
        raise Owl2Error(f"{path} should hold a JSON object, found {json_kind(value)}")
    return value


def json_lines(path: str | os.PathLike, one_of_each_key: bool = False) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of a file with one JSON value a line; blank lines are none.

    `one_of_each_key` is as for `parse_json`.

    Raises:
      Owl2Error: the file is not readable, or a line is no JSON, with its number.
    """
    for number, line in enumerate(lines(read_text(path)), 1):
        if line.strip():
            yield number, parse_json(line, f"{path}, line {number},", one_of_each_key)


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


def write_text(path: str | os.PathLike, text: str) -> None:
    """As `write_bytes`, for text in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike, value: Any) -> None:
    """As `write_text`, for the JSON of a value, indented, with a line feed at its end."""
    write_text(path, json.dumps(value, indent=1) + "\n")


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


def is_no_room(error: Exception) -> bool:
    """Whether an error of any library says that the disk is full."""
    return getattr(error, "errno", None) in NO_ROOM or any(word in str(error) for word in _NO_ROOM_WORDS)


def unreadable(path: str | os.PathLike, error: Exception) -> Exception:
    """What to raise for an error at reading `path`: an `Owl2Error` for a disk or store, else itself."""
    if in_bucket(path) and not isinstance(error, FileNotFoundError):
        message = why_not(path, error)
        return error if message is None else Owl2Error(message)
    return Owl2Error(why_not_readable(path, error)) if isinstance(error, OSError) else error


def why_not_readable(path: str | os.PathLike, error: OSError) -> str:
    """The line for an error at opening or reading `path`: missing, a folder, forbidden or else."""
    path = as_path(path)
    if isinstance(error, FileNotFoundError):
        near = nearest(path.name, _names(path.parent), count=1)
        return f"{path} is missing" + (f"; there is {near[0]}" if near else "")
    if isinstance(error, IsADirectoryError):
        return f"{path} is a folder, expected a file"
    if isinstance(error, PermissionError):
        return f"{path} is there, but this user may not read it; change its permissions"
    return f"{path} cannot be read: {error.strerror or error}"


def why_not_writable(path: str | os.PathLike, error: OSError) -> str:
    """The line for an error at making or writing `path`: no room, forbidden, in the way or else."""
    if error.errno in NO_ROOM:
        return f"no space left while writing {path}; make room and run it again"
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return f"{path} cannot be written by this user ({error.strerror}); choose another place"
    if isinstance(error, NotADirectoryError | FileExistsError):
        return f"{path} cannot be made: {error.filename or path} is a file, not a folder"
    return f"{path} cannot be written: {error.strerror or error}"


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


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except Exception:  # a bucket's store has errors of its own
        return []


def _why_not_json(text: str, error: ValueError) -> str:
    if is_web_page(text[:256].encode()):
        return "it is a web page; the download was refused, fetch the file again"
    if not text.strip():
        return "it is empty"
    return f"{error}; it may be cut off"
