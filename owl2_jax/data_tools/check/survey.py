"""Reads the beginning of a mixture as training would, and counts what it finds."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from owl2_jax.core.errors import Owl2Error, counted
from owl2_jax.data.batch import Batch, Sample
from owl2_jax.data.config import DataConfig
from owl2_jax.data.encode import Rejected
from owl2_jax.data.mixture import Address
from owl2_jax.data.packing import Shard
from owl2_jax.data.pipeline import OpenMixture, open_mixture, row_limits
from owl2_jax.data.tokenizer import Tokenizer
from owl2_jax.data_tools.check.readings import TextNotes, remarks


@dataclass
class SetSurvey:
    """What was read of one set.

    Attributes:
      name: as the config has it. description: the source's own.
      records: in the source. share: of the mixture's records.
      read, usable: records, and those that became samples; repeats of a small set do not count.
      rejected, cut: counts of them by reason.
      duplicates: usable records equal to an earlier one in text and images.
      lengths, targets, images: one number per usable record.
      met, unusable: the same of training's order, where a record comes once an epoch.
    """

    name: str
    description: str
    records: int
    share: float
    read: int = 0
    usable: int = 0
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    met: int = 0
    unusable: int = 0


@dataclass(frozen=True)
class Shown:
    """A sample to look at, and where it comes from."""

    set_name: str
    address: Address
    id: str
    sample: Sample
    why: str


@dataclass
class Survey:
    """What `survey` found.

    Attributes:
      sets: in the order of the mixture.
      round_records: records of a round of the mixture.
      efficiency: share of positions filled, per shard's part of a batch.
      samples, images: number per part.
      rejected: the first unusable or cut records.
      shown: samples to look at.
      texts: what the readings treat differently.
    """

    config: DataConfig
    tokenizer: Tokenizer
    tokens_per_image: int
    sets: list[SetSurvey]
    round_records: int
    efficiency: list[float] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    texts: TextNotes = field(default_factory=TextNotes)

    @property
    def read(self) -> int:
        """Records read of all sets."""
        return sum(one.read for one in self.sets)

    @property
    def num_rejected(self) -> int:
        """Records that cannot be used, of all sets."""
        return sum(one.rejected.total() for one in self.sets)

    @property
    def met(self) -> int:
        """Records with their repeats."""
        return sum(one.met for one in self.sets)

    @property
    def unusable(self) -> int:
        """Of `met`, those that training would count against `data.max_rejected_share`."""
        return sum(one.unusable for one in self.sets)

    @property
    def steps_per_round(self) -> float:
        """Batches that a round of the mixture makes, by what was read."""
        usable = 1 - self.unusable / max(self.met, 1)
        samples = float(np.mean(self.samples)) * self.config.shards
        return self.round_records * usable / max(samples, 1e-9)

    def _repeated(self) -> str:
        if self.met == self.read:
            return ""
        return f" ({self.unusable / self.met:.1%} of what a run reads, where small sets repeat)"

    def remarks(self) -> list[str]:
        """What `data.reading` does to the records, a sentence each."""
        return list(remarks(self.config.reading, self.texts))

    def check(self) -> None:
        """Raises `Owl2Error` when more records are unusable than the config allows."""
        if self.unusable > self.config.max_rejected_share * self.met:
            worst = Counter({f"{s.name}/{r}": n for s in self.sets for r, n in s.rejected.items()})
            counts = ", ".join(f"{key} {count}" for key, count in worst.most_common(5))
            raise Owl2Error(
                f"{self.num_rejected} of {counted(self.read, 'record')} are unusable"
                f"{self._repeated()}, data.max_rejected_share is {self.config.max_rejected_share:.2%}: "
                f"{counts}; repair the data or raise the limit"
            )


def survey(
    config: DataConfig,
    tokenizer: Tokenizer,
    image_size: int,
    tokens_per_image: int,
    records: int = 1000,
    shown: int = 24,
    rejects: int = 100,
) -> Survey:
    """Reads at least `records` records of the mixture, in training's order, and packs them.

    A set with fewer is repeated as training would; its records count once.

    Args:
      shown: samples kept to look at; every set has its share of them, and its
        longest sample is kept besides.
      rejects: unusable or cut records kept to look at.

    Raises:
      Owl2Error: a source cannot be opened, or the config does not fit together.
    """
    mixture = open_mixture(config, image_size, tokens_per_image)
    total = sum(mixture.shares.values())
    found = Survey(
        config=config,
        tokenizer=tokenizer,
        tokens_per_image=tokens_per_image,
        sets=[
            SetSurvey(one.name, one.source.description(), len(one.source), mixture.shares[one.name] / total)
            for one in mixture.sets
        ],
        round_records=total,
    )
    reader = _Reader(mixture, found, max(1, shown // len(mixture.sets)), rejects)
    for batch in _batches(config, reader, image_size):
        found.efficiency.append(batch.efficiency)
        found.samples.append(batch.num_samples)
        found.images.append(batch.num_images)
        if found.met >= records:
            break
    found.shown = reader.to_show()
    return found


def _batches(config: DataConfig, reader: _Reader, image_size: int) -> Iterator[Batch]:
    limits = row_limits(config, image_size)
    shards = [Shard(reader, limits, config.window, shard, config.shards) for shard in range(config.shards)]
    while True:
        yield from (next(shard).batch for shard in shards)


class _Reader:
    """Hands samples to the shards and notes what passes."""

    def __init__(self, mixture: OpenMixture, found: Survey, shown: int, rejects: int) -> None:
        self._mixture, self._found, self._rejects, self._shown = mixture, found, rejects, shown
        self._seen: dict[bytes, int] = {}
        self._kept: dict[int, list[tuple[Address, Sample]]] = {n: [] for n in range(len(found.sets))}
        self._longest: dict[int, tuple[Address, Sample]] = {}
        self._met: set[tuple[int, int]] = set()

    def __getitem__(self, position: int) -> tuple[Sample | None, Rejected | None]:
        address = self._mixture.addresses[position]
        sample, note = self._mixture.samples[position]
        about = self._found.sets[address.dataset]
        about.met += 1
        about.unusable += note is not None and not note.used
        if (address.dataset, address.record) in self._met:
            return sample, note
        self._met.add((address.dataset, address.record))
        about.read += 1
        if note is not None:
            (about.cut if note.used else about.rejected)[note.reason] += 1
            if not note.used:
                name = f"record {note.record} of {note.dataset}"
                self._found.texts.refuse(name, note.reason, note.detail)
            if len(self._found.rejected) < self._rejects:
                self._found.rejected.append(note)
        if sample is not None:
            self._note(about, address, sample)
        return sample, note

    def _note(self, about: SetSurvey, address: Address, sample: Sample) -> None:
        about.usable += 1
        about.lengths.append(len(sample))
        about.targets.append(sample.targets)
        about.images.append(len(sample.images))
        example = self._mixture.sets[address.dataset].source[address.record]
        name = f"record {address.record} of {about.name} ({example['id']})"
        self._found.texts.add(name, example["messages"], self._found.tokenizer)
        about.duplicates += self._seen.setdefault(_digest(sample), address.record) != address.record
        if len(self._kept[address.dataset]) < self._shown:
            self._kept[address.dataset].append((address, sample))
        longest = self._longest.get(address.dataset)
        if longest is None or len(sample) > len(longest[1]):
            self._longest[address.dataset] = (address, sample)

    def to_show(self) -> list[Shown]:
        shown = []
        for number, about in enumerate(self._found.sets):
            kept = [(*one, "") for one in self._kept[number]]
            longest = self._longest.get(number)
            if longest is not None and longest[0] not in [address for address, _, _ in kept]:
                kept.append((*longest, "the longest"))
            source = self._mixture.sets[number].source
            for address, sample, why in kept:
                identity = str(source[address.record]["id"])
                shown.append(Shown(about.name, address, identity, sample, why))
        return shown


def _digest(sample: Sample) -> bytes:
    digest = hashlib.blake2b(sample.tokens.tobytes(), digest_size=16)
    digest.update(sample.labels.tobytes())
    for image in sample.images:
        digest.update(image.tobytes())
    return digest.digest()
