"""LLaVA's files: a JSON array or JSON lines of dialogues, and a folder of images.

    {"id": "000000215677", "image": "coco/train2017/000000215677.jpg",
     "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"},
                       {"from": "gpt", "value": "A bus."}]}

`image` may be missing or blank (text only) or a list (several images). `video`, a file
or a list, stands where images would: its tag, `<video>` or the file's image
tag, becomes one image tag for each of the frames that are shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.json_files import Json
from owl2_jax.core.paths import in_bucket
from owl2_jax.core.ranges import Whole
from owl2_jax.core.texts import BucketPath, Name
from owl2_jax.data.messages import IMAGE_TAGS, ConversationError, ImageTag, check_messages, from_llava
from owl2_jax.data.released_reading import Reading, released_messages, require_reading
from owl2_jax.data.sources.base import DEFAULT_IMAGE_TAG, Example, RecordError, Style, checked_index
from owl2_jax.data.sources.bucket_files import local_copies
from owl2_jax.data.sources.files import contains, index_json, parse_record, read_slice
from owl2_jax.data.sources.image_files import image_names, image_path, is_blank
from owl2_jax.data.video import Frame, require_reader

VIDEO_TAG = "<video>"
# Keys, in small letters, under which other formats name images.
_IMAGE_KEYS = frozenset(
    f"{stem}{end}"
    for stem in ("image", "img", "picture", "photo", "video")
    for end in ("", "s", "_path", "_paths", "_file", "_files", "_url", "_urls")
)


class LlavaSource:
    """The dialogues of one file.

    Args:
      path: A `.json` file with an array, or a file with one object per line.
      image_folder: Where the images lie; the file's own folder if None.
      dataset: Short name of the set; the file's name if None.
      file_tag: The image tag written in the file.
      image_tag: The image tag of the examples.
      reading: Where tags go; "as_written", or "released" (see `data.reading`).
      num_frames: Evenly spaced frames that stand for a video; with 0, records
        with videos are rejected.

    Raises:
      UnknownNameError: A tag is not one of `IMAGE_TAGS`.
      Owl2Error: The file is missing, empty or cut off, or has the other tag;
        frames are asked for and PyAV is not installed.
    """

    def __init__(
        self,
        path: BucketPath | os.PathLike,
        image_folder: BucketPath | os.PathLike | None = None,
        *,
        dataset: Name | None = None,
        file_tag: ImageTag = "<image>",
        image_tag: ImageTag = DEFAULT_IMAGE_TAG,
        num_frames: Whole = 0,
        reading: Reading = "as_written",
    ):
        self.reading = require_reading(reading)
        if num_frames:
            require_reader()
        self.num_frames = num_frames
        self.path = os.fspath(path)
        self._file = local_copies([self.path])[0]
        self.image_folder = os.fspath(image_folder or os.path.dirname(self.path) or os.curdir)
        self.style = Style(dataset or Path(self.path).stem, image_tag=image_tag)
        self.file_tag = Style(self.style.dataset, image_tag=file_tag).image_tag
        self._ranges = index_json(self._file)
        self._refuse_other_tag()

    def __len__(self) -> int:
        return len(self._ranges)

    @property
    def files(self) -> list[str]:
        """The files that hold the records."""
        return [self.path]

    def __getitem__(self, index: int) -> Example:
        position = checked_index(index, len(self), self.path)
        start, end = map(int, self._ranges[position])
        record = parse_record(read_slice(self._file, start, end - start), self.path, position)
        if not image_names(record.get("video")):
            names = image_names(record.get("image"))
            self._require_seen(record, names, position)
            images = [image_path(self.image_folder, name, self.path, position) for name in names]
        else:
            images = self._frames(record, position)
            record = with_frame_tags(record, self.file_tag, self.num_frames)
        messages = llava_messages(
            record, self.file_tag, self.style.image_tag, len(images), self.path, position, self.reading
        )
        return {
            "id": str(position if record.get("id") is None else record["id"]),
            "dataset": self.style.dataset,
            "messages": messages,
            "images": images,
        }

    @property
    def reads_bucket(self) -> bool:
        """Whether images are asked of a bucket one by one."""
        return in_bucket(self.image_folder)

    def description(self) -> str:
        """One line: files, tag and number of dialogues."""
        text = f"llava {self.path}: {len(self)} dialogues, images in {self.image_folder}, {self.file_tag}"
        return f"{text}, {self.num_frames} frames a video" if self.num_frames else text

    def _refuse_other_tag(self) -> None:
        """Raises Owl2Error when turns have image tags, but all of them are the other one.

        A file with both is left to the check of each record; a tag elsewhere, as in an id, is none.
        """
        found = dict(zip(IMAGE_TAGS, contains(self._file, [t.encode() for t in IMAGE_TAGS]), strict=True))
        if found[self.file_tag]:
            return
        for other in (tag for tag in IMAGE_TAGS if tag != self.file_tag and found[tag]):
            if any(other in text for text in self._texts()):
                raise Owl2Error(
                    f"{self.path} marks images with {other!r}, but the config says {self.file_tag!r}: "
                    f"every image would be lost; set file_tag to {other!r}"
                )

    def _texts(self) -> Iterator[str]:
        """What the turns of the file say, as far as it can be read."""
        for start, end in self._ranges:
            try:
                record = parse_record(read_slice(self._file, int(start), int(end - start)), self.path, 0)
            except Owl2Error:
                continue
            turns = record.get("conversations")
            for turn in turns if isinstance(turns, list) else ():
                if isinstance(turn, Mapping) and isinstance(turn.get("value"), str):
                    yield turn["value"]

    def _require_seen(self, record: Mapping[str, Any], names: list, index: int) -> None:
        """Raises RecordError for a record that names other images than `names` under another key."""
        for key, value in record.items():
            other = key.lower() in _IMAGE_KEYS and key not in ("image", "video")
            if other and value and not is_blank(value) and value not in (names, names[0] if names else None):
                way = f"put those of {key!r} there too" if names else "rename it"
                detail = f"images are read from 'image' and videos from 'video', found {key!r}: {way}"
                raise RecordError(self.path, index, "missing_field", detail)

    def _frames(self, record: dict, index: int) -> list[Frame]:
        if not self.num_frames:
            raise RecordError(
                self.path, index, "unsupported", "the record has a video; set num_frames to show some of it"
            )
        if image_names(record.get("image")):
            raise RecordError(self.path, index, "unsupported", "the record has both 'image' and 'video'")
        paths = [
            image_path(self.image_folder, name, self.path, index) for name in image_names(record["video"])
        ]
        return [Frame(path, number, self.num_frames) for path in paths for number in range(self.num_frames)]


def with_frame_tags(record: Mapping[str, Any], file_tag: str, num_frames: int) -> dict[str, Any]:
    """The record with every video's tag replaced by a tag for each of its frames."""

    def widened(turn: Json) -> Json:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
            return turn
        value = turn["value"].replace(VIDEO_TAG, file_tag)
        return {**turn, "value": value.replace(file_tag, file_tag * num_frames)}

    turns = record.get("conversations")
    return (
        {**record, "conversations": [widened(turn) for turn in turns]}
        if isinstance(turns, list)
        else {**record}
    )


def llava_messages(
    record: dict,
    file_tag: str,
    image_tag: str,
    num_images: int,
    source: str,
    index: int,
    reading: str = "as_written",
) -> list[dict[str, str]]:
    """The messages of a record with LLaVA's `conversations`.

    Args:
      file_tag, image_tag: The tag in the record, and in the messages.
      reading: Where tags go; a name of `released_reading.READINGS`.

    Raises:
      RecordError: The field is missing, or no dialogue with `num_images` tags.
    """
    if "conversations" not in record:
        known = ", ".join(repr(key)[:40] for key in list(record)[:8])
        detail = f"no 'conversations'; found {known or 'no field'}"
        if "messages" in record:
            detail += "; write 'messages' as 'conversations', their 'role' as 'from' and 'content' as 'value'"
        raise RecordError(source, index, "missing_field", detail)
    try:
        messages = from_llava(record["conversations"], file_tag, file_tag)
        return read_messages(messages, file_tag, image_tag, num_images, reading)
    except ConversationError as error:
        hint = "" if num_images or error.reason != "image_count" else "; the record has no 'image'"
        raise RecordError(source, index, error.reason, f"{error}{hint}") from error


def read_messages(
    messages: list[dict[str, str]], file_tag: str, image_tag: str, num_images: int, reading: str
) -> list[dict[str, str]]:
    """Messages with `file_tag` as messages with `image_tag`, checked. Raises ConversationError."""
    if reading == "released":
        check_messages(messages, file_tag)
        messages = released_messages(messages, file_tag, num_images)
    # Checked before the tags are exchanged, so that errors quote the file's own.
    check_messages(messages, file_tag, num_images)
    return [{**one, "content": one["content"].replace(file_tag, image_tag)} for one in messages]
