"""Parquet files, as Hugging Face data sets come.

Rows are read a row group at a time and a few groups are kept, so reading in a
shuffled order decodes a group per row: convert large sets to ArrayRecord.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.paths import in_bucket
from owl2_jax.core.text_files import not_downloaded
from owl2_jax.core.texts import AnyText, BucketPath, Name
from owl2_jax.data.messages import ImageTag
from owl2_jax.data.released_reading import Reading, require_reading
from owl2_jax.data.sources.base import DEFAULT_IMAGE_TAG, Example, RecordError, Style, checked_index
from owl2_jax.data.sources.bucket_files import original_names
from owl2_jax.data.sources.fields import Fields, Reader
from owl2_jax.data.sources.files import expand_paths

GROUPS_KEPT = 4


class ParquetSource:
    """Rows of one or many Parquet files.

    Args:
      paths: Files, patterns or ranges.
      fields: Which columns hold what; see `Fields`.
      dataset: Short name of the set.
      image_folder: Where images named by path lie.
      file_tag: The image tag inside a `conversations` column.
      reading: Where tags go in `conversations`; "as_written" or "released".
      prompt, image_tag: Wording of the examples; see `Style`.

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
        names = original_names(self.paths)
        self.name = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        fields = Fields.of(fields)
        style = Style(dataset, prompt, image_tag)
        if fields.question:
            style.require_question()
        self._reader = Reader(
            self.name, fields, style, image_folder, file_tag, reading=require_reading(reading)
        )
        sizes = [size for path in self.paths for size in self._group_sizes(path)]
        self._groups = [(path, group) for path, group, _ in sizes]
        self._ends = np.cumsum([rows for _, _, rows in sizes], dtype=np.int64)
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def files(self) -> list[str]:
        """The files that hold the records."""
        return original_names(self.paths)

    def __getitem__(self, index: int) -> Example:
        position = checked_index(index, len(self), self.name)
        group = int(np.searchsorted(self._ends, position, side="right"))
        start = int(self._ends[group - 1]) if group else 0
        row = self._group(group, position).slice(position - start, 1).to_pylist()[0]
        return self._reader.example(row, position)

    @property
    def images_in_bucket(self) -> bool:
        """Whether images are asked of a bucket one by one."""
        return in_bucket(self._reader.image_folder)

    def description(self) -> str:
        """One line: files, columns and number of rows."""
        return f"parquet {self.name}: {len(self)} rows, columns {', '.join(self._reader.fields.columns())}"

    def __getstate__(self) -> dict[str, Any]:
        # Neither the lock nor tables travel to worker processes.
        return {key: value for key, value in vars(self).items() if key not in ("_lock", "_kept")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock, self._kept = threading.Lock(), OrderedDict()

    def _group_sizes(self, path: str) -> list[tuple[str, int, int]]:
        parquet = _pyarrow_parquet()
        wrong = not_downloaded(path)
        if wrong:
            raise Owl2Error(f"{path} is {wrong}")
        try:
            with parquet.ParquetFile(path) as file:
                metadata, columns = file.metadata, file.schema_arrow.names
                groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        except Exception as error:  # pyarrow raises several types on damaged files
            raise Owl2Error(f"cannot read {path} as Parquet: {error}; fetch the file again") from error
        for column in self._reader.fields.columns():
            if column not in columns:
                raise unknown_name(f"column of {path}", column, columns)
        return [(path, group, rows) for group, rows in enumerate(groups)]

    def _group(self, number: int, position: int) -> Any:
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        path, group = self._groups[number]
        try:
            with _pyarrow_parquet().ParquetFile(path) as file:
                table = file.read_row_group(group, columns=self._reader.fields.columns())
        except Exception as error:
            detail = f"row group {group} is unreadable: {error}"
            raise RecordError(path, position, "corrupt_record", detail) from error
        with self._lock:
            self._kept[number] = table
            while len(self._kept) > GROUPS_KEPT:
                self._kept.popitem(last=False)
        return table


def _pyarrow_parquet() -> ModuleType:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise Owl2Error(
            'Parquet files need pyarrow; install it with: pip install "owl2_jax[parquet]"'
        ) from error
    return parquet
