"""How the columns of a table, or the features of a TFDS builder, become an example."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.fields import check_values
from owl2_jax.core.json_files import json_kind
from owl2_jax.core.texts import Name
from owl2_jax.data.sources.base import Example, RecordError, Style
from owl2_jax.data.sources.image_files import image_names, image_path, is_blank
from owl2_jax.data.sources.llava import llava_messages


@dataclass(frozen=True)
class Fields:
    """Names of the fields that hold the parts of an example; None where there is none.

    A name may be a path such as `objects/caption`. Either `conversations`
    (LLaVA's turns) or `answer` is needed; captions are answers without a question.

    Attributes:
      id: Identifier; the record's number is taken if None.
      image: An image or a list of them: bytes, a path below the image folder,
        or a mapping with `bytes` or `path`, or pixels `uint8[H, W, C]`.
      question: Text; of TFDS also a class, whose name is taken.
      answer: The same.
      answers: The answers of several annotators.
      conversations: LLaVA's turns, with image tags.
    """

    id: Name | None = None
    image: Name | None = "image"
    question: Name | None = None
    answer: Name | None = None
    answers: Name | None = None
    conversations: Name | None = None

    def __post_init__(self):
        check_values(self, "")
        if (self.conversations is None) == (self.answer is None):
            raise Owl2Error(
                "name either the field 'conversations' or the field 'answer', not both or neither"
            )

    @classmethod
    def of(cls, value: Fields | Mapping[str, str | None]) -> Fields:
        """Makes fields of a config's mapping.

        Raises:
          UnknownNameError: A key is no part of an example.
        """
        if isinstance(value, Fields):
            return value
        for name in value:
            if name not in cls.__dataclass_fields__:
                raise unknown_name("part of an example", name, cls.__dataclass_fields__)
        return cls(**value)

    def columns(self) -> list[str]:
        """The top-level fields that are read."""
        used = (self.id, self.image, self.question, self.answer, self.answers, self.conversations)
        return list(dict.fromkeys(name.split("/")[0] for name in used if name))


@dataclass(frozen=True)
class Reader:
    """Turns rows into examples.

    Attributes:
      source: Name for errors.
      image_folder: Where images named by path lie.
      file_tag: The image tag inside `conversations`.
      names: Class names, by the field that holds class numbers.
      reading: Where tags go in `conversations`; a name of `released_reading.READINGS`.
    """

    source: str
    fields: Fields
    style: Style
    image_folder: str = "."
    file_tag: str = "<image>"
    names: Mapping[str, Sequence[str]] | None = None
    reading: str = "as_written"

    def example(self, row: Mapping[str, Any], index: int) -> Example:
        """The example of one row.

        Raises:
          RecordError: A field is missing or of another type, an image is missing.
        """
        fields = self.fields
        images = self._images(row, index)
        identity = str(index) if fields.id is None else str(_plain(self._get(row, fields.id, index)))
        if fields.conversations:
            turns = {"conversations": _turns(self._get(row, fields.conversations, index))}
            messages = llava_messages(
                turns, self.file_tag, self.style.image_tag, len(images), self.source, index, self.reading
            )
            return {"id": identity, "dataset": self.style.dataset, "messages": messages, "images": images}
        question = self._text(row, fields.question, index) if fields.question else ""
        extra = {"answers": self._texts(row, fields.answers, index)} if fields.answers else {}
        return self.style.example(identity, question, self._text(row, fields.answer, index), images, **extra)

    def _images(self, row: Mapping[str, Any], index: int) -> list[bytes | str]:
        value = None if self.fields.image is None else self._get(row, self.fields.image, index)
        if isinstance(value, np.ndarray):
            value = list(value) if value.ndim in (1, 4) else [value]
        names = [_file_of(one) for one in (value if isinstance(value, list | tuple) else [value])]
        return [self._image(one, index) for one in image_names(names)]

    def _image(self, value: object, index: int) -> bytes | str:
        if isinstance(value, bytes) and value:
            return value
        if _are_pixels(value):
            return _png(value)
        return image_path(self.image_folder, value, self.source, index)

    def _text(self, row: Mapping[str, Any], name: str, index: int) -> str:
        return self._as_text(self._get(row, name, index), name, index)

    def _texts(self, row: Mapping[str, Any], name: str, index: int) -> list[str]:
        values = self._get(row, name, index)
        if isinstance(values, str | bytes) or not isinstance(values, Sequence):
            raise RecordError(self.source, index, "corrupt_record", f"{name} is no list: {values!r:.60}")
        return [self._as_text(value, name, index) for value in values]

    def _as_text(self, value: object, name: str, index: int) -> str:
        value = _plain(value)
        classes = (self.names or {}).get(name)
        if classes is not None and isinstance(value, int) and 0 <= value < len(classes):
            return classes[value]
        if not isinstance(value, str):
            raise RecordError(self.source, index, "corrupt_record", f"{name} is no text: {value!r:.60}")
        return value

    def _get(self, row: Mapping[str, Any], name: str, index: int) -> Any:
        value: Any = row
        for part in name.split("/"):
            if not isinstance(value, Mapping) or part not in value:
                found = ", ".join(row) if isinstance(row, Mapping) else json_kind(row)
                raise RecordError(self.source, index, "missing_field", f"no {name!r}; found {found}")
            value = value[part]
        return value


def _file_of(value: object) -> object:
    """The bytes or the path of an image that is a mapping; anything else as it is."""
    if not isinstance(value, Mapping):
        return value
    found = [part for part in (value.get("bytes"), value.get("path")) if part and not is_blank(part)]
    return found[0] if found else value


def _are_pixels(value: object) -> bool:
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3:
        return False
    return value.size > 0 and value.shape[-1] in (1, 3, 4)


def _png(pixels: np.ndarray) -> bytes:
    """Encodes `uint8[H, W, 1 | 3 | 4]` without loss; TFDS decodes the images of a sequence."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _plain(value: object) -> object:
    """Bytes as text where they are UTF-8, numpy scalars as Python numbers."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


def _turns(value: object) -> object:
    """TFDS stores a list of mappings as a mapping of lists; turns it round again."""
    if isinstance(value, Mapping) and all(isinstance(column, list | tuple) for column in value.values()):
        rows = zip(*value.values(), strict=False)
        value = [dict(zip(value, row, strict=True)) for row in rows]
    if not isinstance(value, list | tuple):
        return value
    return [
        {key: _plain(part) for key, part in turn.items()} if isinstance(turn, Mapping) else turn
        for turn in value
    ]
