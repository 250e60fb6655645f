"""One example, made ready to store: checked, filtered, its images decoded and made small."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data import images, video
from owl2_jax.data.messages import check_messages
from owl2_jax.data.sources.arrayrecord import encode_example
from owl2_jax.data.sources.base import Example
from owl2_jax.data.video import Frame
from owl2_jax.data_tools.prepare import deduplication
from owl2_jax.data_tools.prepare.settings import ImageRules, PrepareConfig, TextRules

# An image in one of these formats that is small enough and upright stays the file it is.
_KEPT_FORMATS = ("JPEG", "PNG", "WEBP")
_FEWEST_WORDS = 10
_LIMIT = "images.max_pixels"  # as errors call it


class FilterError(Owl2Error):
    """An example the config does not want. `reason` is a key of `settings.FILTERED`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Cleaned:
    """An example as it is stored, and the keys by which those like it are found.

    Attributes:
      record: the bytes of an ArrayRecord record.
      exact, words: see `deduplication`.
      hashes: hash of each image.
    """

    record: bytes
    exact: str
    words: str
    hashes: tuple[bytes, ...]


def clean(example: Example, dataset: str, config: PrepareConfig) -> Cleaned:
    """Checks and shrinks an example.

    Raises:
      FilterError: the config filters it out.
      Owl2Error: its messages or images cannot be used; with a `reason`.
    """
    messages, sources = example["messages"], example["images"]
    check_messages(messages, config.image_tag, len(sources))
    check_text("\n".join(m["content"] for m in messages if m["role"] == "assistant"), config.text)
    files, hashes, originals = [], [], []
    for number, source in enumerate(sources, start=1):
        original, name = _file(source, f"{number} of {example['id']}", config.images)
        file, image = shrink(original, config.images, name)
        files.append(file)
        hashes.append(deduplication.image_hash(image))
        originals.append(original)
    stored = _storable({**example, "dataset": dataset, "images": files})
    return Cleaned(
        record=encode_example(stored),
        exact=deduplication.exact_key(messages, originals),
        words=deduplication.words_key(messages),
        hashes=tuple(hashes),
    )


def check_text(text: str, rules: TextRules) -> None:
    """Raises `FilterError` for a text outside the rules."""
    length = len(text.strip())
    if length < rules.min_characters or (rules.max_characters and length > rules.max_characters):
        most = rules.max_characters or "any number"
        raise FilterError("text_length", f"{length} characters, expected {rules.min_characters} to {most}")
    words = deduplication.words(text)
    if len(words) >= _FEWEST_WORDS:
        word, count = Counter(words).most_common(1)[0]
        if count > rules.max_word_share * len(words):
            raise FilterError("text_repetition", f"{word[:40]!r} is {count} of {len(words)} words")
    solid = [c for c in text if not c.isspace()]
    letters = sum(map(deduplication.is_word_character, solid))
    if letters < rules.min_letter_share * len(solid):
        raise FilterError("text_letters", f"{letters} of {len(solid)} characters are letters or digits")


def shrink(data: bytes, rules: ImageRules, name: str) -> tuple[bytes, Image.Image]:
    """(file to store, image) of an image file.

    Raises:
      ImageError: it cannot be decoded, or is too large.
      FilterError: it is too small, or too long and thin.
    """
    image = images.decode(data, name, rules.max_pixels, _LIMIT)
    short, long = sorted(image.size)
    if short < rules.min_edge:
        raise FilterError("image_small", f"image {name} is {image.width} x {image.height}")
    if rules.max_aspect and long > rules.max_aspect * short:
        raise FilterError("image_long", f"image {name} is {image.width} x {image.height}")
    if rules.shortest_edge and short > rules.shortest_edge:
        scale = rules.shortest_edge / short
        size = tuple(max(rules.shortest_edge, round(edge * scale)) for edge in image.size)
        image = image.resize(size, Image.Resampling.BICUBIC)
    elif _may_stay(data):
        return data, image
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=rules.quality, subsampling=0)
    return stream.getvalue(), image


def _may_stay(data: bytes) -> bool:
    try:
        image = images.open_image(data)
        still = getattr(image, "n_frames", 1) == 1
        upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    except Exception:  # damaged metadata, which is better not handed on; the pixels were read before
        return False
    return image.format in _KEPT_FORMATS and still and upright


def _file(source: bytes | str | Frame, name: str, rules: ImageRules) -> tuple[bytes, str]:
    """(the image as a file, what errors call it)."""
    if isinstance(source, bytes):
        return source, name
    if isinstance(source, Frame):
        stream = io.BytesIO()
        image = video.decode_frame(source, rules.max_pixels, _LIMIT)
        image.save(stream, "BMP")  # which is always written again, as JPEG
        return stream.getvalue(), source.name
    return images.read_file(source), source


def _storable(example: dict[str, Any]) -> Example:
    # Keys of images are made for memory; stored images are their own.
    return {key: value for key, value in example.items() if key != "image_keys"}
