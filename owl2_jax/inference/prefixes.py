"""Which slot holds which positions, so that a prompt that begins alike need not run from its start.

Keys and values of a position depend on what stands before it and on nothing
else. Slots keep theirs after a request has ended, until another takes them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from owl2_jax.inference.jobs import Job


class PrefixIndex:
    """Finds the sequence with the longest common beginning.

    Sequences are int64[n], one number per position; images are numbers too
    (`Prompt.signature`).
    """

    def __init__(self, shortest: int):
        """Beginnings of fewer than `shortest` positions are not looked for; 0 looks for none."""
        self._shortest = shortest
        self._sequences: dict[int, np.ndarray] = {}
        self._slots: dict[bytes, set[int]] = {}  # by their first positions

    def remember(self, slot: int, sequence: np.ndarray) -> None:
        """Notes what a slot holds, in place of what it held."""
        self.forget(slot)
        if self._shortest and len(sequence) >= self._shortest:
            self._sequences[slot] = sequence
            self._slots.setdefault(self._key(sequence), set()).add(slot)

    def forget(self, slot: int) -> None:
        sequence = self._sequences.pop(slot, None)
        if sequence is None:
            return
        alike = self._slots[self._key(sequence)]
        alike.discard(slot)
        if not alike:
            del self._slots[self._key(sequence)]

    def longest(self, sequence: np.ndarray) -> tuple[int, int]:
        """The slot with the longest common beginning and its length; (-1, 0) when there is none."""
        if not self._shortest or len(sequence) < self._shortest:
            return -1, 0
        slots = self._slots.get(self._key(sequence), ())
        return max(((slot, common_length(self._sequences[slot], sequence)) for slot in slots),
                   key=lambda found: found[1], default=(-1, 0))  # fmt: skip

    def length(self, slot: int) -> int:
        """Positions noted for a slot."""
        return len(self._sequences.get(slot, ()))

    def _key(self, sequence: np.ndarray) -> bytes:
        return sequence[: self._shortest].tobytes()


def common_length(one: np.ndarray, other: np.ndarray) -> int:
    """Length of the common beginning."""
    shortest = min(len(one), len(other))
    different = np.flatnonzero(one[:shortest] != other[:shortest])
    return int(different[0]) if len(different) else shortest


class SlotTable:
    """Free slots, and what every slot holds."""

    def __init__(self, count: int, shortest: int):
        """`shortest` is that of `PrefixIndex`."""
        self._free = deque(range(count))  # longest free first, so that contents stay long
        self._shortest = shortest
        self._held = PrefixIndex(shortest)

    @property
    def num_free(self) -> int:
        return len(self._free)

    def assign(self, jobs: Sequence[Job]) -> None:
        """Gives each job a free slot, and a slot to copy the beginning of its prompt from.

        Sets `slot`, `source`, `kept` and `wave`.
        """
        for job in jobs:
            source, length = self._held.longest(job.prompt.signature) if self._shortest else (-1, 0)
            _copy(job, source, job.prompt.reusable(length), self._shortest)
        self._give_slots(jobs)
        for job in jobs:
            self._held.remember(job.slot, job.prompt.signature)
        self._share_among(jobs)

    def release(self, job: Job) -> None:
        """Frees the slot of a job that ended; what it holds can be copied from now on."""
        self._held.remember(job.slot, job.sequence())
        self._free.append(job.slot)

    def _give_slots(self, jobs: Sequence[Job]) -> None:
        """Slots that nobody copies from first; where these run out, jobs go on in the slot they copy from.

        Of the jobs that copy from a free slot, the one that copies most may take
        it: it leaves alone what the others want. There are always enough slots.
        """
        free = set(self._free)
        heirs: dict[int, Job] = {}
        for job in sorted(jobs, key=lambda job: job.kept):
            if job.kept and job.source in free:
                heirs[job.source] = job
        for source, job in list(heirs.items()):
            if job.kept >= self._held.length(source) - 1:
                self._take(job, heirs.pop(source).source)  # nothing is lost: it continues what is there
        inheriting = {id(job) for job in heirs.values()}
        waiting = sorted((job for job in jobs if job.slot < 0), key=lambda job: id(job) in inheriting)
        unused = [slot for slot in self._free if slot not in heirs]
        for number, job in enumerate(waiting):
            self._take(job, unused[number] if number < len(unused) else job.source)

    def _take(self, job: Job, slot: int) -> None:
        job.slot = slot
        self._free.remove(slot)

    def _share_among(self, jobs: Sequence[Job]) -> None:
        """Jobs that begin alike: the first runs, the others copy from it.

        A wave copies from earlier ones. It is one more batch, so what a job copies from
        a later wave must be longer by as much as makes a copy worthwhile.
        """
        if not self._shortest:
            return
        waves: list[PrefixIndex] = []
        for job in jobs:
            for number, wave in enumerate(waves):
                source, length = wave.longest(job.prompt.signature)
                length = job.prompt.reusable(length)
                if length >= job.kept + self._shortest:
                    job.source, job.kept, job.wave = source, length, number + 1
            if job.wave == len(waves):
                waves.append(PrefixIndex(self._shortest))
            waves[job.wave].remember(job.slot, job.prompt.signature)


def _copy(job: Job, source: int, length: int, shortest: int) -> None:
    worthwhile = length >= max(shortest, 1)
    job.source, job.kept = (source, length) if worthwhile else (-1, 0)
