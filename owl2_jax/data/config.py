"""Settings of the input pipeline, as frozen dataclasses. Defaults live here alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.fields import OldNames, check_values
from owl2_jax.core.prompt_format import IMAGE_TAG, PromptFormat
from owl2_jax.core.ranges import Count, Positive, Seed, Share, Whole, at_least
from owl2_jax.core.texts import BucketPath, Name
from owl2_jax.data.augment import Augment
from owl2_jax.data.images import MAX_PIXELS, MODES
from owl2_jax.data.messages import ImageTag
from owl2_jax.data.released_reading import Reading
from owl2_jax.data.sources.registry import check_settings
from owl2_jax.data.templates import get_template

# Far beyond any batch, and small enough that its arrays can be counted.
Rows = Annotated[int, at_least(1, most=2**20)]
Images = Annotated[int, at_least(0, most=2**20)]


@dataclass(frozen=True)
class DatasetConfig:
    """One set of a mixture.

    Attributes:
      kind: kind of source, a name of `owl2_jax.data.sources.registry.SOURCES`.
      options: settings of that source.
      weight: share of the mixture's records, relative to the other sets.
      epochs: how often the set is read in a round of the mixture, instead of
        a weight; all sets have it or none. 0.5 reads half of the records.
    """

    kind: Name
    options: dict[Name, Any] = field(default_factory=dict)
    weight: Positive = 1.0
    epochs: Positive | None = None

    def __post_init__(self) -> None:
        check_values(self, "a set")
        if self.epochs is not None and self.weight != 1.0:
            raise Owl2Error(
                f"a set has weight {self.weight} and epochs {self.epochs}; give it one of the two"
            )


def check_sources(datasets: Mapping[str, DatasetConfig], where: str) -> None:
    """Checks the kinds and options of sets, `where` in the config. Raises `Owl2Error`."""
    for name, dataset in datasets.items():
        check_settings(dataset.kind, dataset.options, f"{where}.{name}.options")


@dataclass(frozen=True)
class DataConfig:
    """What the model is fed, and in what shape.

    Attributes:
      datasets: {name: set}; metrics and rejects are counted under the names.
      tokenizer: path of a SentencePiece model or of a `qwen.tiktoken`, or "embedded" for
        the one shipped with the embedded corpus.
      template: how dialogues are rendered: "mplug_owl2", "v1" (the same below a sentence on
        the assistant, as the released scripts train), or "plain" (captions without a question).
      image_tag: tag that marks an image in the sets' texts.
      reading: how records become ids, a name of `READINGS`. "as_written": tags
        stay where they are, and `<s>`, `</s>` and `<unk>` in a text are text.
        "released": as the released training code reads them, see `released_reading.py`.
      image_mode: how images become squares: "pad" on the mean colour, "resize" stretches,
        "none" crops the middle.
      augment: random crops and flips instead of `image_mode`; a record's are
        drawn from the seed, the record and the epoch. None for none.
      max_pixels: largest width x height of an image; larger ones are rejected
        before they are decoded.
      long_samples: what becomes of a sample longer than a row: "reject" it, or
        "cut" it from its end. Either is counted and written down.
      rows: B, rows of a batch over all hosts.
      row_length: T, decoder positions of a row, images included.
      images_per_row: I, most images of a row; 0 for text alone.
      images: M, most images of a batch over all hosts; 0 for text alone.
      pack: put several samples into a row; otherwise one.
      shards: independent parts that a batch is made of. Each fills
        rows / shards rows from its own part of the shuffled mixture, so the
        batches do not depend on how many hosts share the shards. Where they
        divide over the devices that share a batch, and over its parts of
        `train.accumulate_steps`, no image is sent to another device.
      window: most samples of a shard that wait for a row with room.
      max_targets: most supervised positions of a row (0: any number); a
        sample that would exceed them goes to another row. The loss then makes
        logits of so many positions of a row and no more.
      workers: processes of a host that read, decode and pack, each for its
        share of the host's shards; 0 does it in threads of the main process.
      prefetch: parts of batches that each shard makes ahead.
      cache_samples: keep every encoded sample in memory; for small sets.
      max_rejected_share: largest share of unusable samples before the run stops.
      seed: of shuffling and augmentation.
    """

    OLD_NAMES: ClassVar[OldNames] = {"image_slots": "images_per_row", "lanes": "shards"}

    datasets: dict[Name, DatasetConfig]
    rows: Rows
    row_length: Annotated[int, at_least(2, most=2**24)]
    images_per_row: Images = 1
    images: Images = 0
    tokenizer: BucketPath = "embedded"
    template: Name = "mplug_owl2"
    image_tag: ImageTag = IMAGE_TAG
    reading: Reading = "as_written"
    image_mode: Name = "pad"
    augment: Augment | None = None
    max_pixels: Count = MAX_PIXELS
    long_samples: Literal["reject", "cut"] = "reject"
    pack: bool = True
    shards: Rows = 1
    window: Rows = 64
    max_targets: Whole = 0
    workers: Annotated[int, at_least(0, most=1024)] = 0
    prefetch: Annotated[int, at_least(1, most=1024)] = 4
    cache_samples: bool = False
    max_rejected_share: Share = 0.001
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_values(self, "data")
        if not self.datasets:
            raise Owl2Error("data.datasets is empty; name at least one set")
        check_sources(self.datasets, "data.datasets")
        if self.image_mode not in MODES:
            raise unknown_name("image mode", self.image_mode, MODES)
        get_template(self.template)
        for name in ("rows", "images"):
            if getattr(self, name) % self.shards:
                raise Owl2Error(
                    f"data.{name} {getattr(self, name)} does not divide into {self.shards} shards"
                )
        if bool(self.images) != bool(self.images_per_row):
            raise Owl2Error(
                f"data.images {self.images} and data.images_per_row {self.images_per_row}: "
                "both are 0 (text alone) or neither is"
            )

    @property
    def prompt_format(self) -> PromptFormat:
        """How the dialogues are written, and the prompts of what is trained on them."""
        return PromptFormat(self.template, self.image_tag, self.image_mode)

    @property
    def images_per_sample(self) -> int:
        """Most images a sample may have: those of a row, and of a shard's part of the batch."""
        return min(self.images_per_row, self.images // self.shards)
