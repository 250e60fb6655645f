"""Parquet files, as Hugging Face data sets come.

Rows are read a row group at a time and a few groups are kept, so reading in a
shuffled order decodes a group per row: convert large sets to ArrayRecord.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np

from owl2_jax.core.buckets import StoreError
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.paths import in_bucket
from owl2_jax.core.text_files import not_downloaded
from owl2_jax.core.texts import AnyText, BucketPath, Name
from owl2_jax.data.bucket_reads import TOGETHER, RangeFile, objects_of
from owl2_jax.data.messages import ImageTag
from owl2_jax.data.released_reading import Reading, require_reading
from owl2_jax.data.sources.base import DEFAULT_IMAGE_TAG, Example, RecordError, Style, checked_index
from owl2_jax.data.sources.fields import Fields, Reader
from owl2_jax.data.sources.files import expand_paths

GROUPS_KEPT = 4


class ParquetSource:
    """Rows of one or many Parquet files.

    Args:
      paths: Files, patterns or ranges.
      fields: Which columns hold what.
      dataset: Short name of the set.
      image_folder: Where images named by path lie.
      file_tag: The image tag inside a `conversations` column.
      reading: Where tags go in `conversations`; "as_written" or "released".
      prompt: Text around the question, with `{question}` in it; the whole request where
        there are captions alone. Or the name of a published prompt, "vqa" or "caption".
      image_tag: The tag that marks images in the messages.

    Raises:
      UnknownNameError: A column does not exist.
      Owl2Error: pyarrow is not installed, no file matches, or one cannot be read.
    """

    def __init__(
        self,
        paths: BucketPath | os.PathLike | Sequence[BucketPath | os.PathLike],
        fields: Fields | Mapping[Name, Name | None],
        *,
        dataset: Name,
        image_folder: BucketPath = ".",
        file_tag: ImageTag = "<image>",
        prompt: AnyText = "{question}",
        image_tag: ImageTag = DEFAULT_IMAGE_TAG,
        reading: Reading = "as_written",
    ):
        self.paths = expand_paths(paths)
        more = len(self.paths) - 1
        self.name = f"{self.paths[0]} and {more} more" if more else self.paths[0]
        self._objects = objects_of(self.paths)
        fields = Fields.of(fields)
        style = Style(dataset, prompt, image_tag)
        if fields.question:
            style.require_question()
        self._reader = Reader(
            self.name, fields, style, image_folder, file_tag, reading=require_reading(reading)
        )
        with ThreadPoolExecutor(TOGETHER) as threads:
            sizes = [size for file in threads.map(self._group_sizes, self.paths) for size in file]
        self._groups = [(path, group) for path, group, _ in sizes]
        self._ends = np.cumsum([rows for _, _, rows in sizes], dtype=np.int64)
        self._begin()

    def _begin(self) -> None:
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._lock, self._reading = threading.Lock(), defaultdict[int, threading.Lock](threading.Lock)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def files(self) -> list[str]:
        """The files that hold the records."""
        return list(self.paths)

    def __getitem__(self, index: int) -> Example:
        position = checked_index(index, len(self), self.name)
        group = int(np.searchsorted(self._ends, position, side="right"))
        start = int(self._ends[group - 1]) if group else 0
        row = self._group(group, position).slice(position - start, 1).to_pylist()[0]
        return self._reader.example(row, position)

    @property
    def reads_bucket(self) -> bool:
        """Whether rows or images are asked of a bucket one by one."""
        return bool(self._objects) or in_bucket(self._reader.image_folder)

    def description(self) -> str:
        """One line: files, columns and number of rows."""
        return f"parquet {self.name}: {len(self)} rows, columns {', '.join(self._reader.fields.columns())}"

    def __getstate__(self) -> dict[str, Any]:
        # Neither locks nor tables travel to worker processes.
        own = ("_lock", "_reading", "_kept")
        return {key: value for key, value in vars(self).items() if key not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def _group_sizes(self, path: str) -> list[tuple[str, int, int]]:
        parquet = _pyarrow_parquet()
        wrong = None if path in self._objects else not_downloaded(path)
        if wrong:
            raise Owl2Error(f"{path} is {wrong}")
        try:
            with parquet.ParquetFile(self._file(path)) as file:
                metadata, columns = file.metadata, file.schema_arrow.names
                groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        except Exception as error:  # pyarrow raises several types on damaged files
            raise Owl2Error(f"cannot read {path} as Parquet: {error}; fetch the file again") from error
        for column in self._reader.fields.columns():
            if column not in columns:
                raise unknown_name(f"column of {path}", column, columns)
        return [(path, group, rows) for group, rows in enumerate(groups)]

    def _file(self, path: str) -> Any:
        """What pyarrow reads: the path of a file, or an object by its parts."""
        if path not in self._objects:
            return path
        size, version = self._objects[path]
        return RangeFile(path, version, size)

    def _group(self, number: int, position: int) -> Any:
        with self._lock:
            reading = self._reading[number]
        with reading:  # several rows of a group are asked for at a time
            with self._lock:
                if number in self._kept:
                    self._kept.move_to_end(number)
                    return self._kept[number]
            table = self._read_group(*self._groups[number], position)
            with self._lock:
                self._kept[number] = table
                while len(self._kept) > GROUPS_KEPT:
                    self._kept.popitem(last=False)
            return table

    def _read_group(self, path: str, group: int, position: int) -> Any:
        try:
            with _pyarrow_parquet().ParquetFile(self._file(path)) as file:
                return file.read_row_group(group, columns=self._reader.fields.columns())
        except StoreError:
            raise
        except Exception as error:
            detail = f"row group {group} is unreadable: {error}"
            raise RecordError(path, position, "corrupt_record", detail) from error


def _pyarrow_parquet() -> ModuleType:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise Owl2Error(
            'Parquet files need pyarrow; install it with: pip install "owl2_jax[parquet]"'
        ) from error
    return parquet
