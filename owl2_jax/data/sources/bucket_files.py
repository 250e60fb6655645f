"""Record files out of buckets, as verified copies on a local disk (`data.bucket_cache`).

A copy is named by its object's URL and generation, so an object that was written again is
fetched again. It gets that name once its size and checksum are those of the object.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from owl2_jax.core import buckets
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_errors import why_not_writable
from owl2_jax.core.paths import as_path, in_bucket
from owl2_jax.data.bucket_cache import BOUND, FOLDER, cache
from owl2_jax.data.bucket_reads import TRIES, fault_of

_TOGETHER: Final = 8  # objects fetched at a time
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
    kept = cache()
    folder = kept.folder
    with ThreadPoolExecutor(_TOGETHER) as threads:
        objects = dict(zip(urls, threads.map(_look, urls), strict=True))
        needed = sum(found.size for found in objects.values())
        if needed > kept.bound:
            raise Owl2Error(
                f"{urls[0]} and what belongs to it have {needed / 2**30:.2f} GiB, and the copies on this "
                f"disk may have {kept.bound / 2**30:.2f}; set {BOUND} to more, and {FOLDER} to a disk "
                "with room"
            )
        try:
            _held.append(kept.note([found.name for found in objects.values()]))
            missing = [found for found in objects.values() if not _is_there(folder, found)]
            # More than fits are fetched all the same: the others are read, too.
            kept.make_room(sum(found.size for found in missing), always=True)
            list(threads.map(lambda found: _fetch(folder, found), missing))
        except OSError as error:
            raise Owl2Error(why_not_writable(folder, error)) from error
    copies = {url: str(folder / found.name) for url, found in objects.items()}
    _urls.update({copy: url for url, copy in copies.items()})
    return [copies.get(name, name) for name in names]


def local_folder(folder: str, below: str, without: str) -> tuple[str, dict[str, str]]:
    """A folder of this machine with links to copies of the objects of FOLDER/BELOW, below their names.

    Args:
      without: in the names of objects that are not copied.

    Returns:
      The folder, and {where a copy would lie: URL} of what was left out.

    Raises:
      Owl2Error: nothing is there, or it cannot be fetched.
    """
    root = f"{folder.rstrip('/')}/{below}"
    found = [os.fspath(file) for file in buckets.files_below(as_path(root))]
    if not found:
        raise Owl2Error(f"{root} is not there: no such bucket, or no object of that name")
    urls = [url for url in found if without not in url.rpartition("/")[2]]
    copies = local_copies(urls)
    digest = hashlib.sha256("\0".join([folder, *copies]).encode()).hexdigest()[:16]
    view = cache().folder / _VIEWS / digest
    links = {url: view / url[len(folder.rstrip("/")) + 1 :] for url in found}
    for url, copy in zip(urls, copies, strict=True):
        links[url].parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            links[url].symlink_to(copy)
        _urls[str(links[url])] = url
    return str(view), {str(links[url]): url for url in found if url not in urls}


def original_names(paths: Sequence[str]) -> list[str]:
    """What files are called outside of this machine: the URLs of copies, the names of all others."""
    return [_urls.get(path, path) for path in paths]


def matching_objects(pattern: str) -> list[str]:
    """The URLs that a URL with `*` stands for, sorted; one without is itself. Raises `Owl2Error`."""
    if not any(mark in pattern for mark in "*?["):
        return [pattern]
    return buckets.matching(pattern)


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
    fault = ""
    try:
        for _ in range(TRIES):
            buckets.download(wanted.url, beside)
            fault = fault_of(beside.stat().st_size, wanted.size, wanted.md5, lambda: _md5(beside))
            if not fault:
                beside.replace(target)
                return
    finally:
        beside.unlink(missing_ok=True)
    raise Owl2Error(f"{wanted.url} arrived damaged {TRIES} times: {fault}; try again later")


def _md5(path: Path) -> Any:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5")


def let_go() -> None:
    """Ends this process's claim on the copies that it read so far."""
    for file in _held:
        file.close()
    _held.clear()
