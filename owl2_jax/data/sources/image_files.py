"""Names of images in records: which file is meant, and what is wrong where none is there."""

from __future__ import annotations

import functools
import os
import urllib.parse
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath

from owl2_jax.core.errors import nearest
from owl2_jax.core.paths import in_bucket
from owl2_jax.data.sources.base import RecordError

_SHOWN = 100  # characters of a name in an error
_COMPARED = 1000  # names that a misspelt one is compared with
_DECLARED = "expected a file name"


def image_names(value: object) -> list[object]:
    """The names in a record's `image` field: none, one or a list.

    None, a blank text and a list of nothing but these all say "no image".
    """
    names = list(value) if isinstance(value, list | tuple) else [value]
    return [] if all(is_blank(name) for name in names) else names


def is_blank(name: object) -> bool:
    """Says whether a name is one of those that stand for "no image"."""
    return name is None or (isinstance(name, str) and not name.strip())


def image_path(folder: str | os.PathLike, name: object, source: str, index: int) -> str:
    """The path of the image `name` below `folder`.

    An absolute path inside the folder, and `..` that stays inside, are fine.

    Raises:
      RecordError: `corrupt_record`: no name, or one that leaves the folder;
        `missing`: no such file; `unreadable`: this user may not look.
    """
    if not isinstance(name, str) or is_blank(name):
        raise RecordError(source, index, "corrupt_record", f"the image is {_shown(name)}, {_DECLARED}")
    folder = os.fspath(folder)
    if in_bucket(folder):  # whether it is there is known once it is read
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            detail = f"the image {_shown(name)} lies outside {folder}; name it from there"
            raise RecordError(source, index, "corrupt_record", detail)
        return f"{folder.rstrip('/')}/{name}"
    path = _inside(folder, name)
    if path is None:
        reason, detail = _why_outside(folder, name)
        raise RecordError(source, index, reason, detail)
    try:
        if os.path.isfile(path):
            return path
        os.stat(path)
    except PermissionError:
        detail = f"the image {_shown(name)} lies in a folder of {folder} that this user may not read"
        raise RecordError(source, index, "unreadable", detail) from None
    except (OSError, ValueError):  # ValueError: no file can have this name
        raise RecordError(source, index, "missing", _why_missing(folder, name, path)) from None
    raise RecordError(
        source, index, "missing", f"the image {_shown(name)} is not a file, but a folder or device"
    )


def _inside(folder: str, name: str) -> str | None:
    """The path of a name; None where it leaves the folder."""
    if not os.path.isabs(name) and ".." not in name:
        return os.path.join(folder, name)
    path = os.path.normpath(os.path.join(folder, name))
    for root in dict.fromkeys((os.path.normpath(folder), os.path.abspath(folder), os.path.realpath(folder))):
        if os.path.isabs(path) == os.path.isabs(root) and _starts(path, root):
            return path
    return None


def _starts(path: str, root: str) -> bool:
    if root == os.curdir:
        return path != os.pardir and not path.startswith(os.pardir + os.sep)
    return path.startswith(root.rstrip(os.sep) + os.sep)


def _why_outside(folder: str, name: str) -> tuple[str, str]:
    detail = f"the image {_shown(name)} lies outside {folder}"
    near = _below(folder, name)
    if near:
        return "corrupt_record", f"{detail}; {near} is inside: write that if it is the same image"
    return "corrupt_record", f"{detail}; set image_folder to a folder that holds it, or name it from there"


def _why_missing(folder: str, name: str, path: str) -> str:
    """What is wrong with a name that no file has."""
    start = f"no image {_shown(name)} in {folder}"
    if "\0" in name:
        return f"{start}: the name holds a NUL character, which no file name can"
    if "://" in name:
        return f"{start}: that is a URL, and nothing is downloaded; fetch it and write the file's name"
    if "\\" in name:
        slashes = PureWindowsPath(name).as_posix()
        return f"{start}: it is written with backslashes; write {slashes!r}{_there(folder, slashes)}"
    if not os.path.isdir(folder):
        return f"{start}, and that folder is missing too; check image_folder"
    plain = urllib.parse.unquote(name)
    if plain != name:
        return f"{start}: it is written as in a URL; write {plain!r}{_there(folder, plain)}"
    other_case = _in_another_case(folder, name)
    if other_case:
        return f"{start}: {other_case!r} is there, in another letter case; write it so"
    below = _below(folder, name)
    if below:
        return f"{start}: {below!r} is there; write that, or give the folder above as image_folder"
    names = list(_listed(os.path.dirname(path)).values())
    near = nearest(os.path.basename(name), names, count=1) if len(names) <= _COMPARED else []
    return start + (f"; did you mean {near[0]!r}, which is there?" if near else "")


def _there(folder: str, name: str) -> str:
    return ", which is there" if _is_file(os.path.join(folder, name)) else ""


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:
        return False


def _in_another_case(folder: str, name: str) -> str | None:
    """The name of a file that differs in letter case alone."""
    found: list[str] = []
    for part in PurePosixPath(name).parts:
        place = os.path.join(folder, *found)
        alike = part if os.path.exists(os.path.join(place, part)) else _listed(place).get(part.lower())
        if alike is None:
            return None
        found.append(alike)
    other = "/".join(found)
    return other if _is_file(os.path.join(folder, other)) else None


def _below(folder: str, name: str) -> str | None:
    """The longest end of a name that is a file in the folder."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
    for start in range(len(parts)):
        end = "/".join(parts[start:])
        if end != name and _is_file(os.path.join(folder, end)):
            return end
    return None


def _listed(folder: str) -> Mapping[str, str]:
    """{name in small letters: name} of what is in a folder."""
    try:
        return _listing(folder, os.stat(folder).st_mtime_ns)
    except (OSError, ValueError):
        return {}


@functools.lru_cache(maxsize=16)
def _listing(folder: str, changed: int) -> Mapping[str, str]:
    """Kept, because a set whose images are misnamed asks for every record."""
    del changed
    return {name.lower(): name for name in os.listdir(folder)}


def _shown(name: object) -> str:
    text = repr(name)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
