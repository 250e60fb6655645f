"""WebDataset shards as img2dataset writes them (CC12M, LAION, COYO, DataComp).

A shard is an uncompressed tar file; the members of one sample lie side by side
and share the name up to the first dot:

    000000012.jpg   000000012.txt   000000012.json

Where the members lie is found once, by reading the shards' headers, and kept
in an index file; after that any sample is two small reads away.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.sources.base import DEFAULT_IMAGE_TAG, Example, RecordError, Style, checked_index
from owl2_jax.data.sources.files import expand_paths, parse_record, read_slice

PICTURES = ("jpg", "jpeg", "png", "webp")
ENTRY = np.dtype(
    [
        ("shard", "<i4"),
        ("key", "S40"),
        ("image_offset", "<i8"),
        ("image_size", "<i8"),
        ("text_offset", "<i8"),
        ("text_size", "<i8"),
        ("json_offset", "<i8"),
        ("json_size", "<i8"),
    ]
)
ABSENT = -1


class WebDatasetSource:
    """Captioned pictures in tar shards.

    Args:
      paths: Shards, patterns or ranges (`{00000..01242}.tar`).
      dataset: Short name of the set.
      index_folder: Where the index file is kept; beside the first shard if None.
      prompt, image_tag: Wording of the examples; the prompt is the request for
        a caption, empty for the `plain` template.

    Raises:
      Owl2Error: No file matches, one is no tar file or cut off, or the index
        cannot be written.
    """

    def __init__(
        self,
        paths: str | os.PathLike | Sequence[str | os.PathLike],
        *,
        dataset: str,
        index_folder: str | os.PathLike | None = None,
        prompt: str = "",
        image_tag: str = DEFAULT_IMAGE_TAG,
    ):
        self.paths = expand_paths(paths)
        self.style = Style(dataset, prompt, image_tag)
        folder = Path(index_folder or Path(self.paths[0]).parent)
        self.index_path = folder / f"owl2_index_{_digest(self.paths)}.npy"
        self._entries = _load_or_build(self.index_path, self.paths)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Example:
        position = checked_index(index, len(self), self.style.dataset)
        entry = self._entries[position]
        path = self.paths[entry["shard"]]
        if entry["image_size"] == ABSENT:
            raise RecordError(path, position, "missing", f"sample {entry['key'].decode()} has no picture")
        image = _member(path, entry, "image", position)
        return self.style.example(
            f"{Path(path).stem}/{entry['key'].decode()}", "", self._caption(path, entry, position), [image]
        )

    def description(self) -> str:
        """One line: shards and number of samples."""
        return f"webdataset {self.paths[0]} ({len(self.paths)} shards): {len(self)} samples"

    def _caption(self, path: str, entry: np.void, index: int) -> str:
        if entry["text_size"] != ABSENT:
            try:
                return _member(path, entry, "text", index).decode().strip()
            except UnicodeDecodeError as error:
                raise RecordError(
                    path, index, "corrupt_record", f"the caption is no UTF-8: {error}"
                ) from error
        if entry["json_size"] != ABSENT:
            caption = parse_record(_member(path, entry, "json", index), path, index).get("caption")
            if isinstance(caption, str):
                return caption.strip()
        raise RecordError(path, index, "missing_field", f"sample {entry['key'].decode()} has no caption")


def build_index(paths: Sequence[str]) -> np.ndarray:
    """Finds every sample of the shards; returns `ENTRY[n]`.

    Raises:
      Owl2Error: A shard is no tar file or is cut off.
    """
    entries = [entry for number, path in enumerate(paths) for entry in _samples(number, path)]
    return np.array(entries, ENTRY)


def _samples(number: int, path: str) -> Iterator[tuple]:
    """Yields one index entry per sample of a shard."""
    key, places = None, {}
    for name, offset, size in _members(path):
        stem, _, extension = name.partition(".")
        if stem != key:
            if places:
                yield _entry(number, key, places)
            key, places = stem, {}
        kind = "image" if extension.lower() in PICTURES else {"txt": "text", "json": "json"}.get(extension)
        if kind:
            places[kind] = (offset, size)
    if places:
        yield _entry(number, key, places)


def _members(path: str) -> Iterator[tuple[str, int, int]]:
    """Yields (name, offset, size) of every file in a tar file."""
    length = os.path.getsize(path)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.offset_data + member.size > length:
                    raise Owl2Error(f"{path} is cut off inside {member.name}; fetch the shard again")
                if member.isfile():
                    yield os.path.basename(member.name), member.offset_data, member.size
                # The list of members would keep growing with the shard.
                tar.members.clear()
            # tarfile takes a torn or foreign header for the end; the true end is a block of zeros.
            if read_slice(path, tar.offset, tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise Owl2Error(f"{path} is cut off at byte {tar.offset}; fetch the shard again")
    except tarfile.TarError as error:
        raise Owl2Error(f"{path} is not a readable tar file: {error}; fetch the shard again") from error


def _entry(shard: int, key: str, places: dict[str, tuple[int, int]]) -> tuple:
    if len(key.encode()) > ENTRY["key"].itemsize:
        raise Owl2Error(f"the sample name {key!r} is longer than {ENTRY['key'].itemsize} bytes; shorten it")
    absent = (ABSENT, ABSENT)
    return (
        shard,
        key.encode(),
        *places.get("image", absent),
        *places.get("text", absent),
        *places.get("json", absent),
    )


def _member(path: str, entry: np.void, kind: str, index: int) -> bytes:
    size = int(entry[f"{kind}_size"])
    try:
        data = read_slice(path, int(entry[f"{kind}_offset"]), size)
    except OSError as error:
        raise RecordError(path, index, "missing", f"cannot read the shard: {error.strerror}") from error
    if len(data) != size:
        raise RecordError(path, index, "corrupt_record", f"found {len(data)} of {size} bytes")
    return data


def _digest(paths: Sequence[str]) -> str:
    """Changes with the names, sizes and times of the shards, so an old index is never used."""
    digest = hashlib.sha256()
    for path in paths:
        stat = os.stat(path)
        digest.update(f"{os.path.abspath(path)}\n{stat.st_size}\n{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _load_or_build(index_path: Path, paths: Sequence[str]) -> np.ndarray:
    if index_path.is_file():
        try:
            entries = np.load(index_path)
        except (ValueError, EOFError, OSError) as error:
            raise Owl2Error(
                f"the index {index_path} is damaged: {error}; delete it to build it anew"
            ) from error
        if entries.dtype == ENTRY:
            return entries
    entries = build_index(paths)
    temporary = index_path.with_name(f"{index_path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.save(file, entries)
        os.replace(temporary, index_path)
    except OSError as error:
        reason = f"cannot write the index {index_path}: {error.strerror}"
        raise Owl2Error(f"{reason}; set index_folder to a folder that can be written") from error
    return entries
