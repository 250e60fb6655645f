"""Captions in COCO's JSON format.

{"images": [{"id": 9, "file_name": "000000000009.jpg"}, ...],
 "annotations": [{"id": 661611, "image_id": 9, "caption": "..."}, ...]}
"""

from __future__ import annotations

import os
from typing import Literal, get_args

from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.json_files import read_json
from owl2_jax.core.paths import as_path, in_bucket
from owl2_jax.core.texts import AnyText, BucketPath, Name
from owl2_jax.data.messages import ImageTag
from owl2_jax.data.sources.base import (
    DEFAULT_IMAGE_TAG,
    Example,
    RecordError,
    Style,
    checked_index,
    clean_caption,
)
from owl2_jax.data.sources.image_files import image_path

Unit = Literal["caption", "image"]
UNITS: tuple[Unit, ...] = get_args(Unit)


class CocoCaptionsSource:
    """Captions of one annotation file.

    Args:
      annotations: The JSON file.
      image_folder: Where the images lie.
      unit: "caption" gives one example per caption, for training; "image" one
        per image with all its captions in `answers`, for evaluation.
      dataset: Short name of the set.
      prompt: The request for a caption, or the name of a published one, "caption"; empty
        for the template "plain".
      image_tag: The tag that marks images in the messages.

    Raises:
      UnknownNameError: Another unit.
      Owl2Error: The file is missing or not in the format.
    """

    def __init__(
        self,
        annotations: BucketPath | os.PathLike,
        image_folder: BucketPath | os.PathLike,
        *,
        unit: Unit = "caption",
        dataset: Name = "coco_captions",
        prompt: AnyText = "",
        image_tag: ImageTag = DEFAULT_IMAGE_TAG,
    ):
        if unit not in UNITS:
            raise unknown_name("unit of COCO captions", unit, UNITS)
        self.path, self.image_folder, self.unit = os.fspath(annotations), os.fspath(image_folder), unit
        self.style = Style(dataset, prompt, image_tag)
        self._names, self._items = _read(self.path, unit)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def files(self) -> list[str]:
        """The files that hold the records."""
        return [self.path]

    def __getitem__(self, index: int) -> Example:
        position = checked_index(index, len(self), self.path)
        identity, image_id, captions = self._items[position]
        if not captions or not all(isinstance(caption, str) for caption in captions):
            raise RecordError(self.path, position, "missing_field", f"no caption for image {image_id}")
        if not isinstance(image_id, int | str) or image_id not in self._names:
            raise RecordError(self.path, position, "missing", f"'images' has no image {image_id}")
        image = image_path(self.image_folder, self._names[image_id], self.path, position)
        return self.style.example(
            str(identity),
            "",
            clean_caption(captions[0]),
            [image],
            answers=[clean_caption(caption) for caption in captions],
            image_keys=[f"{self.style.dataset}/{image_id}"],
        )

    @property
    def reads_bucket(self) -> bool:
        """Whether images are asked of a bucket one by one."""
        return in_bucket(self.image_folder)

    def description(self) -> str:
        """One line: file, unit and number of examples."""
        folder = as_path(self.image_folder)
        return f"coco_captions {self.path}: {len(self)} examples, one per {self.unit}, images in {folder}"


def _read(path: str, unit: str) -> tuple[dict, list[tuple]]:
    """Reads (file name by image, [(identity, image, captions)])."""
    content = read_json(path)
    try:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        rows = [(row["id"], row["image_id"], row.get("caption")) for row in content["annotations"]]
        if unit == "caption":
            return names, [(identity, image, [caption]) for identity, image, caption in rows]
        captions: dict = {image: [] for image in names}
        for _, image, caption in rows:
            captions.setdefault(image, []).append(caption)
    except (KeyError, TypeError, AttributeError) as error:
        raise Owl2Error(
            f"{path} is not in COCO's caption format: {error!r}; see 'images' and 'annotations'"
        ) from error
    return names, [(image, image, captions[image]) for image in captions]
