"""First-fit packing of samples into the rows of a batch, resumable at every batch.

A lane reads its own part of a shuffled mixture in order. A sample goes into
the first row with room for its tokens, pictures and targets; one that fits
nowhere waits, and waiting samples come first in the next batch, so nothing is
lost, nothing is repeated, and nothing waits for long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grain

from owl2_jax.data.batch import Batch, Sample, build_batch
from owl2_jax.data.encode import Rejected


@dataclass(frozen=True)
class RowLimits:
    """What rows can hold.

    Attributes:
      rows: rows of the lane's part of a batch.
      length: T. image_slots: I. images: pictures of the part.
      targets: most supervised positions of a row (0: any).
      samples: most samples of a row (0: any).
      image_size: pixels of a picture's side.
    """

    rows: int
    length: int
    image_slots: int
    images: int
    image_size: int
    targets: int = 0
    samples: int = 0


@dataclass
class _Row:
    samples: list[Sample] = field(default_factory=list)
    tokens: int = 0
    images: int = 0
    targets: int = 0

    def fits(self, sample: Sample, limits: RowLimits) -> bool:
        return (
            self.tokens + len(sample) <= limits.length
            and self.images + len(sample.images) <= limits.image_slots
            and (not limits.targets or self.targets + sample.targets <= limits.targets)
            and (not limits.samples or len(self.samples) < limits.samples)
        )

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)
        self.tokens += len(sample)
        self.images += len(sample.images)
        self.targets += sample.targets


class RowPacker:
    """The rows of one batch while they fill."""

    def __init__(self, limits: RowLimits) -> None:
        self.limits = limits
        self._rows = [_Row() for _ in range(limits.rows)]
        self._images = 0

    def add(self, sample: Sample) -> bool:
        """Places a sample; False when no row has room for it."""
        if self._images + len(sample.images) > self.limits.images:
            return False
        for row in self._rows:
            if row.fits(sample, self.limits):
                row.add(sample)
                self._images += len(sample.images)
                return True
        return False

    def batch(self) -> Batch:
        limits = self.limits
        rows = [row.samples for row in self._rows]
        return build_batch(rows, limits.length, limits.image_slots, limits.images, limits.image_size)


@dataclass(frozen=True)
class Packed:
    """A lane's part of a batch, and the records that were rejected on the way to it."""

    batch: Batch
    rejected: tuple[Rejected, ...]
    read: int  # records read, rejected ones included


class PackedLane(grain.IterDataset):
    """Packs every `num_lanes`-th sample of a mixture, from number `lane` on.

    Args:
      samples: endless `grain.MapDataset` of `Sample` or `Rejected`.
      window: samples that may wait before the batch is closed.
    """

    def __init__(
        self, samples: grain.MapDataset, limits: RowLimits, window: int, lane: int = 0, num_lanes: int = 1
    ) -> None:
        super().__init__()
        self.samples, self.limits, self.window = samples, limits, window
        self.lane, self.num_lanes = lane, num_lanes

    def __iter__(self) -> PackedLaneIterator:
        return PackedLaneIterator(self)


class PackedLaneIterator(grain.DatasetIterator[Packed]):
    """State: how many of the lane's records were read, and which of them wait."""

    def __init__(self, lane: PackedLane) -> None:
        super().__init__()
        self._lane = lane
        self._next = 0
        self._waiting: list[tuple[int, Sample]] = []

    def __next__(self) -> Packed:
        packer = RowPacker(self._lane.limits)
        waiting = [(number, sample) for number, sample in self._waiting if not packer.add(sample)]
        rejected, first = [], self._next
        while len(waiting) < self._lane.window:
            number, sample = self._next, self._read(self._next)
            self._next += 1
            if isinstance(sample, Rejected):
                rejected.append(sample)
                # A batch without any usable record must still end, so that the share can be judged.
                if len(rejected) > 16 * self._lane.window:
                    break
            elif not packer.add(sample):
                waiting.append((number, sample))
        self._waiting = waiting
        return Packed(packer.batch(), tuple(rejected), self._next - first)

    def _read(self, number: int) -> Sample | Rejected:
        return self._lane.samples[number * self._lane.num_lanes + self._lane.lane]

    def get_state(self) -> dict[str, Any]:
        return {"next": self._next, "waiting": [number for number, _ in self._waiting]}

    def set_state(self, state: dict[str, Any]) -> None:
        self._next = state["next"]
        self._waiting = [(number, self._read(number)) for number in state["waiting"]]


def iterate_once(samples: Iterator[Sample | Rejected], limits: RowLimits) -> Iterator[Batch]:
    """Packs a finite stream to its end, for held-out losses; rejected records are left out."""
    packer, empty = RowPacker(limits), True
    for sample in samples:
        if isinstance(sample, Rejected):
            continue
        if not packer.add(sample):
            yield packer.batch()
            packer = RowPacker(limits)
            packer.add(sample)
        empty = False
    if not empty:
        yield packer.batch()
