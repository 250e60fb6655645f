"""Where the samples of WebDataset shards lie: found once by their headers, and kept.

Of shards on a disk one file keeps it for all. In a bucket each shard's index lies beside it, made by
the host whose part the shard is, so that the hosts of a pod read each shard once among them.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from owl2_jax.core import file_errors, text_files
from owl2_jax.core.buckets import size_and_version
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_writing import new_file, write_bytes
from owl2_jax.core.large_objects import opened, size_of
from owl2_jax.core.paths import as_path, in_bucket
from owl2_jax.data.bucket_reads import in_order_of_host, read_object

# HEIC is none that is decoded; seen here, it is refused by its name.
IMAGES = frozenset(
    ("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "ppm", "pgm",
     "pbm", "pnm", "avif", "jp2", "j2k", "jpx", "mpo", "heic", "heif")
)  # fmt: skip
_KINDS = {**dict.fromkeys(IMAGES, "image"), "txt": "text", "json": "json"}
_PLACES = [(f"{kind}_{part}", "<i8") for kind in ("image", "text", "json") for part in ("offset", "size")]
ABSENT, SEVERAL = -1, -2  # in place of a size
_INDEX_FORMAT = 2
_log = logging.getLogger(__name__)
_TOGETHER: Final = 4  # shards of a bucket whose headers are read at a time


def load_index(paths: Sequence[str], folder: Path | None) -> np.ndarray:
    """The samples of shards, `entry_type(widest key)[n]`, from where they are kept or built and kept.

    Args:
      folder: where the index file is kept; None for beside the first shard, and in a bucket beside each.

    Raises:
      Owl2Error: a shard is no tar file or is cut off, or the index cannot be written.
    """
    if folder is None and in_bucket(paths[0]):
        return _joined(paths)
    path = (folder or Path(paths[0]).parent) / f"owl2_index_{_digest(paths)}.npy"
    return _load_or_build(path, paths)


def build_index(paths: Sequence[str]) -> np.ndarray:
    """Finds every sample of the shards; returns `entry_type(widest key)[n]`.

    Raises:
      Owl2Error: A shard is no tar file or is cut off.
    """
    entries = [entry for number, path in enumerate(paths) for entry in _samples(number, path)]
    return np.array(entries, entry_type(max((len(entry[1]) for entry in entries), default=1)))


def entry_type(key_bytes: int) -> np.dtype:
    """An entry of the index: shard, key, and place and size of the members."""
    return np.dtype([("shard", "<i4"), ("key", f"S{max(key_bytes, 1)}"), *_PLACES])


def _samples(number: int, path: str) -> Iterator[tuple]:
    """Yields one index entry per sample of a shard."""
    key, places = None, {}
    for name, offset, size in _members(path):
        folder, _, base = name.rpartition("/")
        stem, _, extension = base.partition(".")
        if not stem:
            continue
        stem = f"{folder}/{stem}" if folder else stem
        if stem != key:
            if places:
                yield _entry(number, key, places)
            key, places = stem, {}
        kind = _KINDS.get(extension.lower())
        if kind:
            places[kind] = (offset, SEVERAL if kind in places else size)
    if places:
        yield _entry(number, key, places)


def _members(path: str) -> Iterator[tuple[str, int, int]]:
    """Yields (name, offset, size) of every file in a tar file."""
    wrong = None if in_bucket(path) else text_files.not_downloaded(path)
    if wrong:
        raise Owl2Error(f"{path} is {wrong}")
    try:
        with opened(path, in_order=True) as file:
            yield from _members_of(file, path, size_of(path))
    except (tarfile.TarError, ValueError, ArithmeticError, EOFError) as error:
        raise Owl2Error(f"{path} is not a readable tar file: {error}; fetch the shard again") from error
    except OSError as error:
        raise Owl2Error(file_errors.why_not_readable(path, error)) from error


def _members_of(file: BinaryIO, path: str, length: int) -> Iterator[tuple[str, int, int]]:
    start = file.read(tarfile.BLOCKSIZE)
    wrong = text_files.what_was_downloaded(start) if start else "empty; fetch the file again"
    wrong = wrong or _what_no_tar(start)
    if wrong:
        raise Owl2Error(f"{path} is {wrong}")
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            _require_whole(member, path, length)
            if member.isfile():
                yield posixpath.normpath(member.name), member.offset_data, member.size
            # The list of members would keep growing with the shard.
            tar.members.clear()
        # tarfile takes a torn or foreign header for the end; the true end is a block of zeros.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise Owl2Error(f"{path} is cut off at byte {tar.offset}; fetch the shard again")


def _what_no_tar(start: bytes) -> str | None:
    """Names what a file is that certainly is no tar file, by its first block; None otherwise."""
    packed = text_files.packed_as(start)
    if packed:
        return f"a {packed} file; shards are read in place, so unpack it to a plain tar file"
    if start.removeprefix(text_files.BOM).lstrip()[:1] in (b"{", b"[") and b"\0" not in start:
        return "JSON text, no tar file; records in JSON are read by the kind 'llava' or 'vqa'"
    if start.startswith(b"PAR1"):
        return "a Parquet file, no tar file; it is read by the kind 'parquet'"
    return None


def _require_whole(member: tarfile.TarInfo, path: str, length: int) -> None:
    """Raises Owl2Error for a member that does not lie in the file as it is."""
    if not 0 <= member.size <= length - member.offset_data:
        raise Owl2Error(f"{path} is cut off inside {_printable(member.name)}; fetch the shard again")
    if member.issparse():
        name = _printable(member.name)
        raise Owl2Error(f"{path} holds {name} as a sparse file; write it without tar's --sparse")


def _entry(shard: int, key: str, places: dict[str, tuple[int, int]]) -> tuple:
    absent = (ABSENT, ABSENT)
    return (
        shard,
        key.encode("utf-8", "surrogateescape"),
        *places.get("image", absent),
        *places.get("text", absent),
        *places.get("json", absent),
    )


def _printable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _digest(paths: Sequence[str]) -> str:
    """Changes with the names, sizes and times of the shards, so an old index is never used."""
    digest = hashlib.sha256(f"{_INDEX_FORMAT}\n".encode())
    for path in paths:
        size, version = size_and_version(as_path(path))
        name = path if in_bucket(path) else os.path.abspath(path)
        digest.update(f"{name}\n{size}\n{version}\n".encode())
    return digest.hexdigest()[:16]


def _load_or_build(index_path: Path, paths: Sequence[str]) -> np.ndarray:
    if index_path.is_file():
        try:
            entries = np.load(index_path)
        except (ValueError, EOFError, OSError) as error:
            raise Owl2Error(
                f"the index {index_path} is damaged: {error}; delete it to build it again"
            ) from error
        if entries.dtype.names and entries.dtype == entry_type(entries.dtype["key"].itemsize):
            return entries
    entries = build_index(paths)
    try:
        if not index_path.parent.is_dir():
            raise Owl2Error(f"there is no folder {index_path.parent}")
        with new_file(index_path) as part:
            np.save(part, entries)
    except Owl2Error as error:
        raise Owl2Error(
            f"the index of the shards: {error}; or set index_folder to a folder that can be written"
        ) from error
    return entries


def _joined(urls: Sequence[str]) -> np.ndarray:
    """The samples of shards in a bucket, this host's part of them looked through first."""
    order = in_order_of_host(len(urls))
    with ThreadPoolExecutor(_TOGETHER) as threads:
        made = threads.map(lambda number: _of_shard(urls[number]), order)
        found = dict(zip(order, made, strict=True))
    widest = max(entries.dtype["key"].itemsize for entries in found.values())
    entries = np.concatenate([found[number].astype(entry_type(widest)) for number in range(len(urls))])
    entries["shard"] = np.repeat(np.arange(len(urls)), [len(found[number]) for number in range(len(urls))])
    return entries


def _of_shard(url: str) -> np.ndarray:
    place = f"{url}.owl2_index_{_digest([url])}.npy"
    kept = _kept(place)
    if kept is not None:
        return kept
    entries = build_index([url])
    content = io.BytesIO()
    np.save(content, entries)
    try:
        write_bytes(place, content.getvalue())
    except Owl2Error as error:
        _log.warning("every host looks through %s by itself, as its index cannot be kept: %s", url, error)
    return entries


def _kept(place: str) -> np.ndarray | None:
    """The index of a shard in a bucket; None where there is none, or a damaged one."""
    try:
        entries = np.load(io.BytesIO(read_object(place)))
    except (FileNotFoundError, ValueError, EOFError):
        return None
    names = entries.dtype.names
    return entries if names and entries.dtype == entry_type(entries.dtype["key"].itemsize) else None
