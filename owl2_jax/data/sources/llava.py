"""LLaVA's files: a JSON array or JSON lines of dialogues, and a folder of pictures.

    {"id": "000000215677", "image": "coco/train2017/000000215677.jpg",
     "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"},
                       {"from": "gpt", "value": "A bus."}]}

`image` may be missing (text only) or a list (several pictures).
"""

from __future__ import annotations

import os
from pathlib import Path

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.messages import IMAGE_TAGS, ConversationError, check_messages, from_llava
from owl2_jax.data.sources.base import DEFAULT_IMAGE_TAG, Example, RecordError, Style, checked_index
from owl2_jax.data.sources.files import contains, index_json, parse_record, picture_path, read_slice


class LlavaSource:
    """The dialogues of one file.

    Args:
      path: A `.json` file with an array, or a file with one object per line.
      image_folder: Where the pictures lie; the file's own folder if None.
      dataset: Short name of the set; the file's name if None.
      file_tag: The image tag written in the file.
      image_tag: The image tag of the examples.

    Raises:
      UnknownNameError: A tag is not one of `IMAGE_TAGS`.
      Owl2Error: The file is missing, empty or cut off, or has the other tag.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        image_folder: str | os.PathLike | None = None,
        *,
        dataset: str | None = None,
        file_tag: str = "<image>",
        image_tag: str = DEFAULT_IMAGE_TAG,
    ):
        self.path = os.fspath(path)
        self.image_folder = os.fspath(image_folder or Path(self.path).parent)
        self.style = Style(dataset or Path(self.path).stem, image_tag=image_tag)
        self.file_tag = Style(self.style.dataset, image_tag=file_tag).image_tag
        self._ranges = index_json(self.path)
        refuse_other_tag(self.path, file_tag)

    def __len__(self) -> int:
        return len(self._ranges)

    def __getitem__(self, index: int) -> Example:
        position = checked_index(index, len(self), self.path)
        start, end = map(int, self._ranges[position])
        record = parse_record(read_slice(self.path, start, end - start), self.path, position)
        names = picture_names(record.get("image"))
        messages = llava_messages(
            record, self.file_tag, self.style.image_tag, len(names), self.path, position
        )
        return {
            "id": str(record.get("id", position)),
            "dataset": self.style.dataset,
            "messages": messages,
            "images": [picture_path(self.image_folder, name, self.path, position) for name in names],
        }

    def description(self) -> str:
        """One line: files, tag and number of dialogues."""
        return f"llava {self.path}: {len(self)} dialogues, pictures in {self.image_folder}, {self.file_tag}"


def refuse_other_tag(path: str, file_tag: str) -> None:
    """Raises Owl2Error when a file has image tags, but all of them are the other one.

    A file with both is left to the check of each record.
    """
    found = dict(zip(IMAGE_TAGS, contains(path, [tag.encode() for tag in IMAGE_TAGS]), strict=True))
    others = [tag for tag in IMAGE_TAGS if tag != file_tag and found[tag]]
    if others and not found[file_tag]:
        raise Owl2Error(
            f"{path} marks pictures with {others[0]!r}, but the config says {file_tag!r}: "
            f"every picture would be lost; set file_tag to {others[0]!r}"
        )


def picture_names(value: object) -> list:
    """The pictures of a record's `image` field: none, one or a list."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def llava_messages(
    record: dict, file_tag: str, image_tag: str, num_images: int, source: str, index: int
) -> list[dict[str, str]]:
    """The messages of a record with LLaVA's `conversations`.

    Raises:
      RecordError: The field is missing, or no dialogue with `num_images` tags.
    """
    if "conversations" not in record:
        known = ", ".join(map(str, list(record)[:8]))
        raise RecordError(source, index, "missing_field", f"no 'conversations'; found {known or 'no field'}")
    try:
        messages = from_llava(record["conversations"], file_tag, image_tag)
        check_messages(messages, image_tag, num_images)
    except ConversationError as error:
        raise RecordError(source, index, error.reason, str(error)) from error
    return messages
