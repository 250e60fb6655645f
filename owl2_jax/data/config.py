"""Settings of the input pipeline, as frozen dataclasses. Defaults live here alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from owl2_jax.core.errors import Owl2Error


@dataclass(frozen=True)
class DatasetConfig:
    """One set of a mixture.

    Attributes:
      kind: kind of source, a name of `owl2_jax.data.sources.SOURCES`.
      options: settings of that source.
      weight: share of the mixture, relative to the other sets.
    """

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise Owl2Error(f"a set's weight must be above 0, found {self.weight}; leave the set out instead")


@dataclass(frozen=True)
class DataConfig:
    """What the model is fed, and in what shape.

    Attributes:
      datasets: {name: set}; metrics and rejects are counted under the names.
      tokenizer: path of a SentencePiece model, or "embedded" for the one
        shipped with the embedded corpus.
      template: how dialogues are rendered, a name of
        `owl2_jax.data.templates.TEMPLATES`.
      image_tag: tag that marks a picture in the sets' texts.
      image_mode: how pictures become squares, a name of `images.MODES`.
      rows: B, rows of a batch over all hosts.
      row_length: T, decoder positions of a row, pictures included.
      image_slots: I, most pictures of a row; 0 for text alone.
      images: M, most pictures of a batch over all hosts.
      pack: put several samples into a row; otherwise one.
      lanes: independent parts that a batch is made of. Each fills
        rows / lanes rows from its own part of the shuffled mixture, so the
        batches do not depend on how many hosts share the lanes.
      window: most samples of a lane that wait for a row with room.
      max_targets: most supervised positions of a row (0: any number); a
        sample that would exceed them goes to another row.
      cache_samples: keep every encoded sample in memory; for small sets.
      max_rejected_share: largest share of unusable samples before the run stops.
      seed: of shuffling and augmentation.
    """

    datasets: dict[str, DatasetConfig]
    rows: int
    row_length: int
    image_slots: int = 1
    images: int = 0
    tokenizer: str = "embedded"
    template: str = "mplug_owl2"
    image_tag: str = "<|image|>"
    image_mode: str = "pad"
    pack: bool = True
    lanes: int = 1
    window: int = 64
    max_targets: int = 0
    cache_samples: bool = False
    max_rejected_share: float = 0.001
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.datasets:
            raise Owl2Error("data.datasets is empty; name at least one set")
        for name in ("rows", "images"):
            if getattr(self, name) % self.lanes:
                raise Owl2Error(f"data.{name} {getattr(self, name)} does not divide into {self.lanes} lanes")
        if bool(self.images) != bool(self.image_slots):
            raise Owl2Error(
                f"data.images {self.images} and data.image_slots {self.image_slots}: both are 0 (text alone) "
                "or neither is"
            )
