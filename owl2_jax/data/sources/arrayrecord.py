"""ArrayRecord files of examples, the project's own format for large sets.

A record is

    b"OWL2"  |  length of the header, uint32 little-endian  |  header  |  images

with the header a JSON object of the example in which each image is replaced
by its length in bytes; the images follow in order.

A random read takes time in proportion to the number of records in its file
(measured: 60 us at 50 000, 2.6 ms at 1 000 000), so large sets belong in
shards of at most some ten thousand records.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from typing import Any

from owl2_jax.core.buckets import StoreError
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.paths import in_bucket
from owl2_jax.core.text_files import not_downloaded
from owl2_jax.core.texts import BucketPath, Name
from owl2_jax.data.messages import ConversationError, ImageTag
from owl2_jax.data.released_reading import Reading, require_reading
from owl2_jax.data.sources.array_record_ranges import ArrayRecordRanges
from owl2_jax.data.sources.base import DEFAULT_IMAGE_TAG, Example, RecordError, Style, checked_index
from owl2_jax.data.sources.files import all_in_bucket, expand_paths, parse_record
from owl2_jax.data.sources.llava import read_messages

MAGIC = b"OWL2"
_LENGTH = struct.Struct("<I")
_START = len(MAGIC) + _LENGTH.size


def encode_example(example: Example) -> bytes:
    """Encodes an example whose images are bytes.

    Raises:
      Owl2Error: An image is a path; read it first.
    """
    images = example["images"]
    for image in images:
        if not isinstance(image, bytes):
            raise Owl2Error(f"the image {image!r} of {example['id']} is a path; expected its bytes")
    header = json.dumps(
        {**example, "images": [len(image) for image in images]},
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode("utf-8", "surrogatepass")
    return b"".join([MAGIC, _LENGTH.pack(len(header)), header, *images])


def decode_example(data: bytes, source: str, index: int) -> Example:
    """Decodes what `encode_example` made.

    Raises:
      RecordError: `corrupt_record`: another format, or cut off.
    """
    if len(data) < _START or not data.startswith(MAGIC):
        detail = f"starts with {data[:4]!r}, expected {MAGIC!r}; was the file written by this project?"
        raise RecordError(source, index, "corrupt_record", detail)
    end = _START + _LENGTH.unpack_from(data, len(MAGIC))[0]
    example = parse_record(data[_START:end], source, index)
    sizes = example.get("images")
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise RecordError(source, index, "corrupt_record", f"'images' is {sizes!r:.60}, expected lengths")
    if end + sum(sizes) != len(data):
        detail = f"has {len(data)} bytes, expected {end + sum(sizes)}"
        raise RecordError(source, index, "corrupt_record", detail)
    example["images"] = []
    for size in sizes:
        example["images"].append(data[end : end + size])
        end += size
    return example


class ArrayRecordSource:
    """Examples in one or many ArrayRecord files.

    Args:
      paths: Files, patterns or ranges (`part-{00000..00099}.array_record`).
      dataset: Replaces the records' own dataset name if given.
      file_tag: The image tag in the records.
      image_tag: The image tag of the examples.
      reading: Where tags go; "as_written", or "released" (see `data.reading`).

    Raises:
      UnknownNameError: A tag is not one of the known ones.
      Owl2Error: No file matches, or one is no ArrayRecord file.
    """

    def __init__(
        self,
        paths: BucketPath | os.PathLike | Sequence[BucketPath | os.PathLike],
        *,
        dataset: Name | None = None,
        file_tag: ImageTag = DEFAULT_IMAGE_TAG,
        image_tag: ImageTag = DEFAULT_IMAGE_TAG,
        reading: Reading = "as_written",
    ):
        self.reading = require_reading(reading)
        self.dataset = dataset
        self.file_tag = Style("", image_tag=file_tag).image_tag
        self.image_tag = Style("", image_tag=image_tag).image_tag
        self.paths = expand_paths(paths)
        more = len(self.paths) - 1
        self.name = f"{self.paths[0]} and {more} more" if more else self.paths[0]
        self._records = open_array_record(self.paths)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def files(self) -> list[str]:
        """The files that hold the records."""
        return list(self.paths)

    def __getitem__(self, index: int) -> Example:
        position = checked_index(index, len(self), self.name)
        try:
            data = self._records[position]
        except StoreError:
            raise
        except Exception as error:  # the reader has no error type of its own
            raise RecordError(self.name, position, "corrupt_record", f"unreadable: {error}") from error
        example = decode_example(data, self.name, position)
        return self._checked(example, position)

    def description(self) -> str:
        """One line: files and number of examples."""
        return f"arrayrecord {self.name}: {len(self)} examples"

    @property
    def reads_bucket(self) -> bool:
        """Whether records are asked of a bucket one by one."""
        return in_bucket(self.paths[0])

    def _checked(self, example: dict[str, Any], index: int) -> Example:
        for field in ("id", "dataset", "messages"):
            if field not in example:
                raise RecordError(
                    self.name, index, "missing_field", f"no {field!r}; found {', '.join(example)}"
                )
        try:
            example["messages"] = read_messages(
                example["messages"], self.file_tag, self.image_tag, len(example["images"]), self.reading
            )
        except ConversationError as error:
            raise RecordError(self.name, index, error.reason, str(error)) from error
        return {**example, "dataset": self.dataset} if self.dataset else example


def open_array_record(paths: Sequence[str]) -> Any:
    """Opens ArrayRecord files as one list of bytes; those of a bucket are read by ranges.

    Raises:
      Owl2Error: One of them cannot be read, or some lie in a bucket and others do not.
    """
    if all_in_bucket(paths):
        return ArrayRecordRanges(paths)
    # Imported here: Grain takes a second, and most commands need no data.
    import grain

    for path in paths:
        if os.path.getsize(path) == 0:
            raise Owl2Error(f"{path} is empty; expected an ArrayRecord file, was its writing interrupted?")
        wrong = not_downloaded(path)
        if wrong:
            raise Owl2Error(f"{path} is {wrong}")
    try:
        records = grain.sources.ArrayRecordDataSource(list(paths))
        len(records)
    except Exception as error:
        raise Owl2Error(f"cannot open {', '.join(paths[:3])} as ArrayRecord: {error}") from error
    return records
