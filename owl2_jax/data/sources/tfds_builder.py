"""Data sets of TensorFlow Datasets, read at random without TensorFlow.

The set has to be prepared on disk as ArrayRecord or Parquet, for example with
`tfds build NAME --file_format=array_record`.
"""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from owl2_jax.core.buckets import StoreError
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.paths import in_bucket
from owl2_jax.core.texts import AnyText, BucketPath, Name
from owl2_jax.data.messages import ImageTag
from owl2_jax.data.released_reading import Reading, require_reading
from owl2_jax.data.sources.array_record_ranges import ArrayRecordRanges
from owl2_jax.data.sources.base import DEFAULT_IMAGE_TAG, Example, RecordError, Style, checked_index
from owl2_jax.data.sources.bucket_files import local_folder, original_names
from owl2_jax.data.sources.fields import Fields, Reader

_RECORDS: Final = ".array_record-"  # in the names of files of records


class TfdsSource:
    """One split of a builder.

    Args:
      builder: Name of the set, with config and version if wanted (`name/config:1.0.0`).
      split: Name of the split, or a slice such as `train[:10%]`.
      fields: Which features hold what.
      data_dir: Where prepared sets lie; TFDS's own default if None. Of one in a bucket, records
        in ArrayRecord are read by ranges, and all else is copied to this machine's disk (`bucket_files`).
      dataset: Short name of the set; the builder's name if None.
      file_tag: The image tag inside a `conversations` feature.
      reading: Where tags go in `conversations`; "as_written" or "released".
      prompt: Text around the question, with `{question}` in it; the whole request where
        there are captions alone. Or the name of a published prompt, "vqa" or "caption".
      image_tag: The tag that marks images in the messages.

    Raises:
      UnknownNameError: A feature does not exist.
      Owl2Error: The set or split is unknown, or not prepared for random access.
    """

    def __init__(
        self,
        builder: Name,
        split: Name,
        fields: Fields | Mapping[Name, Name | None],
        *,
        data_dir: BucketPath | os.PathLike | None = None,
        dataset: Name | None = None,
        file_tag: ImageTag = "<image>",
        prompt: AnyText = "{question}",
        image_tag: ImageTag = DEFAULT_IMAGE_TAG,
        reading: Reading = "as_written",
    ):
        fields = Fields.of(fields)
        style = Style(dataset or builder.split("/")[0].split(":")[0], prompt, image_tag)
        if fields.question:
            style.require_question()
        self.name = f"{builder}[{split}]"
        self._rows, features, self._files = _open(builder, split, fields, data_dir)
        names = {name: feature.names for name, feature in features.items() if hasattr(feature, "names")}
        self._reader = Reader(
            self.name, fields, style, file_tag=file_tag, names=names, reading=require_reading(reading)
        )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def files(self) -> list[str]:
        """The files that hold the records."""
        return self._files

    def __getitem__(self, index: int) -> Example:
        position = checked_index(index, len(self), self.name)
        try:
            row = self._rows[position]
        except StoreError:
            raise
        except Exception as error:  # features raise many types on damaged records
            raise RecordError(self.name, position, "corrupt_record", f"unreadable: {error}") from error
        return self._reader.example(row, position)

    @property
    def reads_bucket(self) -> bool:
        """Whether records are asked of a bucket one by one."""
        return isinstance(getattr(self._rows, "data_source", None), _Ranges)

    def description(self) -> str:
        """One line: builder, split and number of examples."""
        return f"tfds {self.name}: {len(self)} examples"


def _open(
    builder: str, split: str, fields: Fields, data_dir: Any
) -> tuple[Any, Mapping[str, Any], list[str]]:
    """Opens a split with its images left encoded; returns (rows, features, files)."""
    import tensorflow_datasets as tfds

    local, away = data_dir, {}
    if data_dir is not None and in_bucket(data_dir):
        local, away = local_folder(os.fspath(data_dir), builder.split(":")[0], without=_RECORDS)
    try:
        made = tfds.builder(builder, data_dir=local)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise Owl2Error(f"TFDS has no data set {builder!r}: {reason} Prepare it, or set data_dir") from error
    features = made.info.features
    for name in fields.columns():
        if name not in features:
            raise unknown_name(f"feature of {builder}", name, features)
    # An image travels as its file, to be decoded where all images are.
    images = {
        name: tfds.decode.SkipDecoding()
        for name in features
        if isinstance(features[name], tfds.features.Image)
    }
    try:
        rows = made.as_data_source(split=split, decoders=images)
        files = original_names(sorted(str(path) for path in Path(made.data_dir).glob("*") if path.is_file()))
        if away:
            rows.data_source = _Ranges(made.info.splits[split].file_instructions, away)
            files = sorted({*files, *away.values()})
        return rows, features, files
    except Owl2Error:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise Owl2Error(
            f"cannot read the split {split!r} of {builder}: {reason} "
            "Prepare it with: tfds build --file_format=array_record"
        ) from error


class _Ranges:
    """The records of a split in a bucket, in the place of TFDS's own list of them.

    Args:
      parts: files of this machine, each with records to pass over and to take.
      urls: {file: its URL}.
    """

    def __init__(self, parts: Sequence[Any], urls: Mapping[str, str]) -> None:
        self._records = ArrayRecordRanges([urls[os.fspath(part.filename)] for part in parts])
        self._skipped = [part.skip for part in parts]
        self._ends = list(itertools.accumulate(part.take for part in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> bytes:
        part = bisect.bisect_right(self._ends, index)
        before = self._ends[part - 1] if part else 0
        return self._records.record(part, index - before + self._skipped[part])
