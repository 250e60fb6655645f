"""Settings of `owl2 data prepare`, as frozen dataclasses. Defaults live here alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import OldNames, check_values
from owl2_jax.core.prompt_format import IMAGE_TAG
from owl2_jax.core.ranges import Count, NotNegative, Share, Whole, between
from owl2_jax.core.texts import Name
from owl2_jax.data.images import MAX_PIXELS
from owl2_jax.data.messages import ImageTag
from owl2_jax.data.sources.registry import check_settings


@dataclass(frozen=True)
class PrepareSet:
    """One set to prepare.

    Attributes:
      kind: kind of source, a name of `owl2_jax.data.sources.registry.SOURCES`.
      options: settings of that source.
      duplicates: which examples go because an earlier one of the set is like
        them. "keep": none. "exact": the same text and the same image files.
        "near": the same words and images that look the same. "image":
        images that look the same, whatever the text; for captions from the
        web, not for sets that ask several questions about an image.
    """

    OLD_NAMES: ClassVar[OldNames] = {
        "duplicates": lambda value: {"duplicates": "image" if value == "picture" else value}
    }

    kind: Name
    options: dict[Name, Any] = field(default_factory=dict)
    duplicates: Literal["keep", "exact", "near", "image"] = "exact"

    def __post_init__(self) -> None:
        check_values(self, "a set")


@dataclass(frozen=True)
class ImageRules:
    """Which images are kept, and how they are stored.

    Attributes:
      shortest_edge: larger images are shrunk to it (0: never).
      quality: of JPEG files, for images that are written again.
      max_pixels: largest width x height that is decoded.
      min_edge: smallest shortest edge that is kept (0: any).
      max_aspect: largest ratio of long to short edge (0: any).
    """

    shortest_edge: Whole = 448
    quality: Annotated[int, between(1, 100)] = 92
    max_pixels: Count = MAX_PIXELS
    min_edge: Whole = 0
    max_aspect: NotNegative = 0.0

    def __post_init__(self) -> None:
        check_values(self, "images")


@dataclass(frozen=True)
class TextRules:
    """Which texts are kept; judged over an example's answers together, in any language.

    Attributes:
      min_characters: shortest text (0: any).
      max_characters: longest text (0: any).
      max_word_share: largest share of the words that may be one and the same;
        texts of fewer than 10 words are not judged.
      min_letter_share: smallest share of letters, marks and digits of any
        script among the characters that are no spaces.
    """

    min_characters: Whole = 1
    max_characters: Whole = 0
    max_word_share: Share = 1.0
    min_letter_share: Share = 0.0

    def __post_init__(self) -> None:
        check_values(self, "text")


@dataclass(frozen=True)
class PrepareConfig:
    """What to prepare.

    Attributes:
      datasets: {name: set}; a folder each in the output.
      image_tag: tag of images in the output.
      images: which images are kept.
      text: which texts are kept.
      near_bits: images whose 256-bit hashes (`deduplication.py`) differ in at most
        so many bits look the same, with 0 those of equal hashes. Photographs written again at another size or
        quality mostly differ in fewer than 12, others in more than 70; drawings
        on an empty page can come closer.
      records_per_shard: records read for a shard; fewer come out.
      max_rejected_share: largest share of records with faults (not of
        filtered or doubled ones) before the run fails.
    """

    OLD_NAMES: ClassVar[OldNames] = {"pictures": "images"}

    datasets: dict[Name, PrepareSet]
    image_tag: ImageTag = IMAGE_TAG
    images: ImageRules = ImageRules()
    text: TextRules = TextRules()
    near_bits: Annotated[int, between(0, 32)] = 12
    records_per_shard: Count = 10_000
    max_rejected_share: Share = 0.01

    def __post_init__(self) -> None:
        check_values(self, "prepare")
        if not self.datasets:
            raise Owl2Error("datasets is empty; name at least one set to prepare")
        for name, dataset in self.datasets.items():
            if not name.replace("-", "").replace("_", "").isalnum():
                raise Owl2Error(
                    f"the set {name!r} becomes a folder; name it with letters, digits, '-' and '_' alone"
                )
            check_settings(dataset.kind, dataset.options, f"datasets.{name}.options")


# What was wrong with a record, beside the reasons of sources and images. Filters
# and duplicates are choices of the config and no faults of the data.
FILTERED = {
    "image_small": "an image's shortest edge is below images.min_edge",
    "image_long": "an image is longer and thinner than images.max_aspect",
    "text_length": "the answers are shorter or longer than text allows",
    "text_repetition": "one word makes up too much of the answers",
    "text_letters": "too few letters and digits",
    "duplicate": "equal to an earlier example",
    "near_duplicate": "looks the same as an earlier example",
}
