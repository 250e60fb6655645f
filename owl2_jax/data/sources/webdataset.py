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

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from owl2_jax.core import text_files
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.texts import AnyText, BucketPath, FilePath, Name
from owl2_jax.data.bucket_reads import objects_of, read_range
from owl2_jax.data.messages import ImageTag
from owl2_jax.data.sources.base import (
    DEFAULT_IMAGE_TAG,
    Example,
    RecordError,
    Style,
    checked_index,
    clean_caption,
)
from owl2_jax.data.sources.files import expand_paths, parse_record, read_slice
from owl2_jax.data.sources.webdataset_index import ABSENT, SEVERAL, load_index

# Reads (offset, size) of a shard.
Read = Callable[[int, int], bytes]
_GAP = 1 << 16  # bytes between members that are read with them, rather than asked for separately


class WebDatasetSource:
    """Captioned images in tar shards.

    Args:
      paths: Shards, patterns or ranges (`{00000..01242}.tar`).
      dataset: Short name of the set.
      index_folder: Where the index file is kept; beside the first shard if None,
        and in a bucket beside every shard.
      prompt: The request for a caption, or the name of a published one, "caption"; empty
        for the template "plain".
      image_tag: The tag that marks images in the messages.

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
        self._entries = load_index(self.paths, None if index_folder is None else Path(index_folder))
        self._objects = objects_of(self.paths)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def files(self) -> list[str]:
        """The files that hold the records."""
        return list(self.paths)

    def __getitem__(self, index: int) -> Example:
        position = checked_index(index, len(self), self.style.dataset)
        entry = self._entries[position]
        path = self.paths[entry["shard"]]
        if entry["image_size"] == ABSENT:
            raise RecordError(path, position, "missing", f"sample {_key(entry)} has no image beside it")
        read = self._reader(entry)
        image = _member(read, path, entry, "image", position)
        caption = _caption(read, path, entry, position)
        return self.style.example(f"{Path(path).stem}/{_key(entry)}", "", caption, [image])

    @property
    def reads_bucket(self) -> bool:
        """Whether samples are asked of a bucket one by one."""
        return bool(self._objects)

    def description(self) -> str:
        """One line: shards and number of samples."""
        return f"webdataset {self.paths[0]} ({len(self.paths)} shards): {len(self)} samples"

    def _reader(self, entry: np.void) -> Read:
        """Reads the shard of a sample: in a bucket, a sample that lies together by one request."""
        path = self.paths[entry["shard"]]
        if path not in self._objects:
            return lambda offset, size: read_slice(path, offset, size)
        version = self._objects[path][1]
        caption = "text" if entry["text_size"] != ABSENT else "json"
        places = [(int(entry[f"{kind}_offset"]), int(entry[f"{kind}_size"])) for kind in ("image", caption)]
        places = [(offset, size) for offset, size in places if size >= 0]
        start = min((offset for offset, _ in places), default=0)
        stop = max((offset + size for offset, size in places), default=0)
        if stop - start > sum(size for _, size in places) + _GAP:
            return lambda offset, size: read_range(path, version, offset, size)
        data = read_range(path, version, start, stop - start)
        return lambda offset, size: data[offset - start : offset - start + size]


def _caption(read: Read, path: str, entry: np.void, index: int) -> str:
    if entry["text_size"] != ABSENT:
        data = _member(read, path, entry, "text", index)
        try:
            return clean_caption(text_files.decode(data, f"the caption of {_key(entry)}"))
        except Owl2Error as error:
            raise RecordError(path, index, "corrupt_record", str(error)) from error
    if entry["json_size"] != ABSENT:
        caption = parse_record(_member(read, path, entry, "json", index), path, index).get("caption")
        if isinstance(caption, str):
            return clean_caption(caption)
    raise RecordError(path, index, "missing_field", f"sample {_key(entry)} has no caption beside it")


def _key(entry: np.void) -> str:
    return entry["key"].decode("utf-8", "backslashreplace")


def _member(read: Read, path: str, entry: np.void, kind: str, index: int) -> bytes:
    size = int(entry[f"{kind}_size"])
    if size == SEVERAL:
        detail = f"sample {_key(entry)} has several members that are its {kind}; keep one"
        raise RecordError(path, index, "corrupt_record", detail)
    try:
        data = read(int(entry[f"{kind}_offset"]), size)
    except OSError as error:
        raise RecordError(path, index, "missing", f"cannot read the shard: {error.strerror}") from error
    if len(data) != size:
        raise RecordError(path, index, "corrupt_record", f"found {len(data)} of {size} bytes")
    return data
