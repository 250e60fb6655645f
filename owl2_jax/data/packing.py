"""First-fit packing of samples into the rows of a batch, resumable at every batch.

A shard reads its own part of the mixture in order. A sample goes into the first
row with room for its tokens, images and targets; one that fits nowhere waits.
Waiting samples come first in the next batch, so nothing is lost, nothing is
repeated, and nothing waits for long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.batch import Batch, Sample, build_batch
from owl2_jax.data.encode import Rejected
from owl2_jax.data.read_ahead import ReadAhead

# A sample has at least a token to predict and one to predict it from.
_SHORTEST = 2
# A batch among nothing but unusable records must still end, so that their share can be judged.
_MOST_REJECTED = 1024


@dataclass(frozen=True)
class RowLimits:
    """What rows can hold.

    Attributes:
      rows: rows of the shard's part of a batch.
      length: T. images_per_row: I. images: images of the part.
      targets: most supervised positions of a row (0: any).
      samples: most samples of a row (0: any).
      image_size: pixels of an image's side.
    """

    rows: int
    length: int
    images_per_row: int
    images: int
    image_size: int
    targets: int = 0
    samples: int = 0


class RowPacker:
    """The rows of one batch while they fill."""

    def __init__(self, limits: RowLimits) -> None:
        self.limits = limits
        self._rows: list[list[Sample]] = [[] for _ in range(limits.rows)]
        # What is left of each row, in plain lists: this is the pipeline's inner loop.
        self._room = [limits.length] * limits.rows
        self._row_images = [limits.images_per_row] * limits.rows
        self._targets = [limits.targets or limits.length] * limits.rows
        self._images = limits.images
        self._roomiest = limits.length

    @property
    def full(self) -> bool:
        """No row has room for any sample."""
        return self._roomiest < _SHORTEST

    def add(self, sample: Sample) -> bool:
        """Places a sample; False when no row has room for it."""
        length, images, targets = len(sample.tokens), len(sample.images), sample.targets
        if length > self._roomiest or images > self._images:
            return False
        for row, room in enumerate(self._room):
            if length <= room and images <= self._row_images[row] and targets <= self._targets[row]:
                self._place(row, sample)
                return True
        return False

    def _place(self, row: int, sample: Sample) -> None:
        self._rows[row].append(sample)
        closed = len(self._rows[row]) == self.limits.samples
        self._room[row] = 0 if closed else self._room[row] - len(sample.tokens)
        self._row_images[row] -= len(sample.images)
        self._targets[row] -= sample.targets
        self._images -= len(sample.images)
        self._roomiest = max(self._room)

    def batch(self) -> Batch:
        """The rows so far as one batch, padded to the limits."""
        limits = self.limits
        return build_batch(self._rows, limits.length, limits.images_per_row, limits.images, limits.image_size)


@dataclass(frozen=True)
class Packed:
    """A shard's part of a batch.

    Attributes:
      shard: number of the shard.
      batch: the part's rows.
      rejected: (place in the shard's order, record) of those met on the way to it.
      begins: place in the shard's order from which on the part read; where the part before it ended.
      state: of the shard after this part, as JSON types.
    """

    shard: int
    batch: Batch
    rejected: tuple[tuple[int, Rejected], ...]
    begins: int
    state: dict[str, Any]


class Shard:
    """Packs every `num_shards`-th sample of a mixture, from number `shard` on.

    Args:
      samples: endless; an item is a sample or None, and what was wrong or None.
      window: samples that may wait before the batch is closed.
      state: `Packed.state` to go on from.
      read_ahead: make the following samples in threads meanwhile.

    Raises:
      Owl2Error: a record that waits in `state` can no longer be used.
    """

    def __init__(
        self,
        samples: Sequence[tuple[Sample | None, Rejected | None]],
        limits: RowLimits,
        window: int,
        shard: int = 0,
        num_shards: int = 1,
        state: Mapping[str, Any] | None = None,
        read_ahead: bool = False,
    ) -> None:
        self._in_order = ReadAhead(samples, num_shards) if read_ahead else samples
        self._samples, self._limits, self._window = samples, limits, window
        self._shard, self._num_shards = shard, num_shards
        state = state or empty_state()
        self._next: int = state["next"]
        self._rejected, self._cut = Counter(state["rejected"]), Counter(state["cut"])
        self._waiting = [(place, self._read_again(place)) for place in state["waiting"]]

    def __iter__(self) -> Iterator[Packed]:
        return self

    def __next__(self) -> Packed:
        packer, begins = RowPacker(self._limits), self._next
        waiting = [(place, sample) for place, sample in self._waiting if not packer.add(sample)]
        notes: list[tuple[int, Rejected]] = []
        unusable = 0
        while len(waiting) < self._window and not packer.full and unusable < _MOST_REJECTED:
            place, (sample, note) = self._next, self._in_order[self._position(self._next)]
            self._next += 1
            if note is not None:
                notes.append((place, note))
                (self._cut if note.used else self._rejected)[f"{note.dataset}/{note.reason}"] += 1
            if sample is None:
                unusable += 1
            elif not packer.add(sample):
                waiting.append((place, sample))
        self._waiting = waiting
        return Packed(self._shard, packer.batch(), tuple(notes), begins, self.state())

    def _position(self, place: int) -> int:
        return place * self._num_shards + self._shard

    def _read_again(self, place: int) -> Sample:
        sample, note = self._samples[self._position(place)]
        if sample is None:
            assert note is not None
            raise Owl2Error(
                f"record {note.record} of {note.dataset} was usable before the interruption and is not now: "
                f"{note.detail}; bring it back to resume exactly"
            )
        return sample

    def state(self) -> dict[str, Any]:
        """How many of the shard's records were read, which wait, and how many were unusable."""
        return {
            "next": self._next,
            "waiting": [place for place, _ in self._waiting],
            "rejected": dict(self._rejected),
            "cut": dict(self._cut),
        }


def empty_state() -> dict[str, Any]:
    """The state of a shard that has read nothing."""
    return {"next": 0, "waiting": [], "rejected": {}, "cut": {}}


def iterate_once(
    samples: Iterable[tuple[Sample | None, Rejected | None]], limits: RowLimits
) -> Iterator[Batch]:
    """Packs a finite stream to its end, for held-out losses; unusable records are left out."""
    packer, empty = RowPacker(limits), True
    for sample, _ in samples:
        if sample is None:
            continue
        if not packer.add(sample):
            yield packer.batch()
            packer = RowPacker(limits)
            packer.add(sample)
        empty = False
    if not empty:
        yield packer.batch()
