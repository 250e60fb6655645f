"""WebDataset shards as img2dataset writes them (CC12M, LAION, COYO, DataComp).

A shard is an uncompressed tar file; the members of one sample lie side by side
and share folder and name up to the first dot. The ending says what a member is,
in small or capital letters:

    000000012.jpg   000000012.txt   000000012.json

Hidden files, such as macOS leaves (`._000000012.jpg`), and members of other
endings are passed over.

Where the members lie is found once, by reading the shards' headers, and kept
in an index file; after that any sample is two small reads away.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from owl2_jax.core import file_errors, text_files
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_writing import new_file
from owl2_jax.core.texts import AnyText, BucketPath, FilePath, Name
from owl2_jax.data.messages import ImageTag
from owl2_jax.data.sources.base import (
    DEFAULT_IMAGE_TAG,
    Example,
    RecordError,
    Style,
    checked_index,
    clean_caption,
)
from owl2_jax.data.sources.bucket_files import original_names
from owl2_jax.data.sources.files import expand_paths, parse_record, read_slice

# HEIC is none that is decoded; seen here, it is refused by its name.
IMAGES = frozenset(
    ("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "ppm", "pgm",
     "pbm", "pnm", "avif", "jp2", "j2k", "jpx", "mpo", "heic", "heif")
)  # fmt: skip
_KINDS = {**dict.fromkeys(IMAGES, "image"), "txt": "text", "json": "json"}
_PLACES = [(f"{kind}_{part}", "<i8") for kind in ("image", "text", "json") for part in ("offset", "size")]
ABSENT, SEVERAL = -1, -2  # in place of a size
_INDEX_FORMAT = 2


class WebDatasetSource:
    """Captioned images in tar shards.

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
        paths: BucketPath | os.PathLike | Sequence[BucketPath | os.PathLike],
        *,
        dataset: Name,
        index_folder: FilePath | os.PathLike | None = None,
        prompt: AnyText = "",
        image_tag: ImageTag = DEFAULT_IMAGE_TAG,
    ):
        self.paths = expand_paths(paths)
        self.style = Style(dataset, prompt, image_tag)
        folder = Path(index_folder or Path(self.paths[0]).parent)
        self.index_path = folder / f"owl2_index_{_digest(self.paths)}.npy"
        self._entries = _load_or_build(self.index_path, self.paths)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def files(self) -> list[str]:
        """The files that hold the records."""
        return original_names(self.paths)

    def __getitem__(self, index: int) -> Example:
        position = checked_index(index, len(self), self.style.dataset)
        entry = self._entries[position]
        path = self.paths[entry["shard"]]
        if entry["image_size"] == ABSENT:
            raise RecordError(path, position, "missing", f"sample {_key(entry)} has no image beside it")
        image = _member(path, entry, "image", position)
        caption = self._caption(path, entry, position)
        return self.style.example(f"{Path(path).stem}/{_key(entry)}", "", caption, [image])

    def description(self) -> str:
        """One line: shards and number of samples."""
        return f"webdataset {self.paths[0]} ({len(self.paths)} shards): {len(self)} samples"

    def _caption(self, path: str, entry: np.void, index: int) -> str:
        if entry["text_size"] != ABSENT:
            data = _member(path, entry, "text", index)
            try:
                return clean_caption(text_files.decode(data, f"the caption of {_key(entry)}"))
            except Owl2Error as error:
                raise RecordError(path, index, "corrupt_record", str(error)) from error
        if entry["json_size"] != ABSENT:
            caption = parse_record(_member(path, entry, "json", index), path, index).get("caption")
            if isinstance(caption, str):
                return clean_caption(caption)
        raise RecordError(path, index, "missing_field", f"sample {_key(entry)} has no caption beside it")


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
    wrong = text_files.not_downloaded(path) or _what_no_tar(read_slice(path, 0, tarfile.BLOCKSIZE))
    if wrong:
        raise Owl2Error(f"{path} is {wrong}")
    length = os.path.getsize(path)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                _require_whole(member, path, length)
                if member.isfile():
                    yield posixpath.normpath(member.name), member.offset_data, member.size
                # The list of members would keep growing with the shard.
                tar.members.clear()
            # tarfile takes a torn or foreign header for the end; the true end is a block of zeros.
            if read_slice(path, tar.offset, tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise Owl2Error(f"{path} is cut off at byte {tar.offset}; fetch the shard again")
    except (tarfile.TarError, ValueError, ArithmeticError, EOFError) as error:
        raise Owl2Error(f"{path} is not a readable tar file: {error}; fetch the shard again") from error
    except OSError as error:
        raise Owl2Error(file_errors.why_not_readable(path, error)) from error


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


def _key(entry: np.void) -> str:
    return entry["key"].decode("utf-8", "backslashreplace")


def _printable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _member(path: str, entry: np.void, kind: str, index: int) -> bytes:
    size = int(entry[f"{kind}_size"])
    if size == SEVERAL:
        detail = f"sample {_key(entry)} has several members that are its {kind}; keep one"
        raise RecordError(path, index, "corrupt_record", detail)
    try:
        data = read_slice(path, int(entry[f"{kind}_offset"]), size)
    except OSError as error:
        raise RecordError(path, index, "missing", f"cannot read the shard: {error.strerror}") from error
    if len(data) != size:
        raise RecordError(path, index, "corrupt_record", f"found {len(data)} of {size} bytes")
    return data


def _digest(paths: Sequence[str]) -> str:
    """Changes with the names, sizes and times of the shards, so an old index is never used."""
    digest = hashlib.sha256(f"{_INDEX_FORMAT}\n".encode())
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
