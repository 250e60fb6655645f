"""Text files, read in one way everywhere, and what stands in a file that should hold text.

Text is UTF-8; a byte-order mark at its start is skipped. Lines end at line
feeds alone, so U+2028, U+2029 and U+0085 may stand in a line. What a user
can have put there instead (UTF-16, a git-lfs pointer, a web page, a folder) is
named as what it is.
"""

from __future__ import annotations

import os
from typing import Final

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_errors import unreadable, why_not_readable
from owl2_jax.core.paths import as_path

BOM: Final = b"\xef\xbb\xbf"
_LFS: Final = b"version https://git-lfs.github.com/spec/"
_PACKED: Final = {
    b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz", b"7z\xbc\xaf\x27\x1c": "7z",
}  # fmt: skip
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")


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
