"""What an error at reading or writing a file means, as the line that a user is told."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from owl2_jax.core.buckets import why_not
from owl2_jax.core.errors import Owl2Error, nearest
from owl2_jax.core.paths import as_path, in_bucket

NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an `OSError`
# How libraries word the same in errors of their own types.
_NO_ROOM_WORDS: Final = ("RESOURCE_EXHAUSTED", "No space left", "File too large", "quota exceeded")


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


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except Exception:  # a bucket's store has errors of its own
        return []
