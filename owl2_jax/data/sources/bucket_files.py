"""Shards and record files out of buckets, as verified copies on a local disk of bounded size.

A copy is named by its object's URL and generation, so an object that was written again is
fetched again. It gets that name once its size and checksum are those of the object. When
there is no room for new copies, the ones used longest ago go, but for those that a living
process reads.

`OWL2_DATA_CACHE` names the folder (`~/.cache/owl2_jax/data`), `OWL2_DATA_CACHE_GIB` its
bound (50).
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from owl2_jax.core import buckets
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import read_number
from owl2_jax.core.file_errors import why_not_writable
from owl2_jax.core.paths import as_path, in_bucket
from owl2_jax.core.ranges import Positive

FOLDER: Final = "OWL2_DATA_CACHE"
BOUND: Final = "OWL2_DATA_CACHE_GIB"
_TOGETHER: Final = 8  # objects fetched at a time
_TRIES: Final = 3  # of an object whose content arrives damaged
_USES: Final = "uses"
_VIEWS: Final = "views"  # folders of links to copies

_urls: dict[str, str] = {}  # of the copies that this process reads
_held: list[IO[str]] = []  # this process's notes of what it reads, locked as long as it lives


@dataclass(frozen=True)
class _Object:
    url: str
    size: int
    md5: str | None
    name: str  # of its copy, in a folder of its own: ids of records have the name of their file


def local_copies(names: Sequence[str]) -> list[str]:
    """The files to read for names of files and URLs of objects: the former as they are.

    Raises:
      Owl2Error: an object is not there or cannot be fetched, or all together exceed the bound.
    """
    urls = [name for name in names if in_bucket(name)]
    if not urls:
        return list(names)
    folder, bound = _settings()
    with ThreadPoolExecutor(_TOGETHER) as threads:
        objects = dict(zip(urls, threads.map(_look, urls), strict=True))
        needed = sum(found.size for found in objects.values())
        if needed > bound:
            raise Owl2Error(
                f"{urls[0]} and what belongs to it have {needed / 2**30:.2f} GiB, and the copies on this "
                f"disk may have {bound / 2**30:.2f}; set {BOUND} to more, and {FOLDER} to a disk with room"
            )
        try:
            (folder / _USES).mkdir(parents=True, exist_ok=True)
            _note(folder, [found.name for found in objects.values()])
            missing = [found for found in objects.values() if not _is_there(folder, found)]
            _make_room(folder, bound - sum(found.size for found in missing))
            list(threads.map(lambda found: _fetch(folder, found), missing))
        except OSError as error:
            raise Owl2Error(why_not_writable(folder, error)) from error
    copies = {url: str(folder / found.name) for url, found in objects.items()}
    _urls.update({copy: url for url, copy in copies.items()})
    return [copies.get(name, name) for name in names]


def local_folder(folder: str, below: str) -> str:
    """A folder of this machine with links to copies of all objects of FOLDER/BELOW, below their names.

    Raises:
      Owl2Error: nothing is there, or it cannot be fetched.
    """
    root = f"{folder.rstrip('/')}/{below}"
    urls = [os.fspath(file) for file in buckets.files_below(as_path(root))]
    if not urls:
        raise Owl2Error(f"{root} is not there: no such bucket, or no object of that name")
    copies = local_copies(urls)
    digest = hashlib.sha256("\0".join([folder, *copies]).encode()).hexdigest()[:16]
    view = _settings()[0] / _VIEWS / digest
    for url, copy in zip(urls, copies, strict=True):
        link = view / url[len(folder.rstrip("/")) + 1 :]
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            link.symlink_to(copy)
        _urls[str(link)] = url
    return str(view)


def original_names(paths: Sequence[str]) -> list[str]:
    """What files are called outside of this machine: the URLs of copies, the names of all others."""
    return [_urls.get(path, path) for path in paths]


def matching_objects(pattern: str) -> list[str]:
    """The URLs that a URL with `*` stands for, sorted; one without is itself. Raises `Owl2Error`."""
    if not any(mark in pattern for mark in "*?["):
        return [pattern]
    return buckets.matching(pattern)


def _settings() -> tuple[Path, float]:
    """(folder, bytes)."""
    given = os.environ.get(FOLDER, "").strip()
    folder = Path(given).expanduser() if given else Path.home() / ".cache" / "owl2_jax" / "data"
    return folder.absolute(), read_number(Positive, os.environ.get(BOUND, "50"), BOUND) * 2**30


def _look(url: str) -> _Object:
    info = buckets.info(url)
    size, version = info["size"], str(info.get("generation") or info.get("ETag"))
    digest = hashlib.sha256(f"{url}\0{version}".encode()).hexdigest()[:16]
    return _Object(url, size, info.get("md5Hash"), f"{digest}/{url.rpartition('/')[2]}")


def _is_there(folder: Path, wanted: _Object) -> bool:
    path = folder / wanted.name
    if not path.is_file() or path.stat().st_size != wanted.size:
        return False
    os.utime(path)
    return True


def _fetch(folder: Path, wanted: _Object) -> None:
    target = folder / wanted.name
    beside = target.with_name(f".{uuid.uuid4().hex[:8]}.tmp")
    target.parent.mkdir(exist_ok=True)
    try:
        for attempt in range(1, _TRIES + 1):
            buckets.download(wanted.url, beside)
            fault = _fault(beside, wanted)
            if fault is None:
                beside.replace(target)
                return
            if attempt == _TRIES:
                raise Owl2Error(f"{wanted.url} arrived damaged {_TRIES} times: {fault}; try again later")
    finally:
        beside.unlink(missing_ok=True)


def _fault(path: Path, wanted: _Object) -> str | None:
    size = path.stat().st_size
    if size != wanted.size:
        return f"{size:,} of {wanted.size:,} bytes"
    if wanted.md5 is None:  # an object that was composed of others has none
        return None
    with path.open("rb") as file:
        found = base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()
    return None if found == wanted.md5 else "its checksum is another"


def _note(folder: Path, names: list[str]) -> None:
    """Says that this process reads copies, until it ends."""
    file = (folder / _USES / f"{uuid.uuid4().hex}.json").open("w+")
    fcntl.flock(file, fcntl.LOCK_EX)
    json.dump(names, file)
    file.flush()
    _held.append(file)


def _read_by_others(folder: Path) -> set[str]:
    """Copies that a living process reads; notes of dead ones go."""
    names: set[str] = set()
    for path in (folder / _USES).glob("*.json"):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read()
                names.update(json.loads(text) if text else [])
            else:
                path.unlink(missing_ok=True)
    return names


def _make_room(folder: Path, bound: float) -> None:
    """Removes copies, those used longest ago first, until the rest have at most `bound` bytes."""
    used = _read_by_others(folder)
    found = (
        path for path in folder.glob("*/*") if path.parent.name not in (_USES, _VIEWS) and path.name[0] != "."
    )
    copies = [(path.stat(), path) for path in found]
    total = sum(status.st_size for status, _ in copies)
    for status, path in sorted(copies, key=lambda copy: copy[0].st_mtime):
        if total <= bound:
            return
        if path.relative_to(folder).as_posix() not in used:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # something else lies there
                path.parent.rmdir()
            total -= status.st_size


def let_go() -> None:
    """Ends this process's claim on the copies that it read so far."""
    for file in _held:
        file.close()
    _held.clear()
