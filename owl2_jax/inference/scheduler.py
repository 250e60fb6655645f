"""What runs next: first come, first served, with a budget of prompt tokens per step.

    waiting --(a row and pages are free)--> running --(ended, cancelled)--> out
       ^                                       |
       +----(pages run out: the newest)--------+

A plan has two parts. Chunks are pieces of prompts, together at most the budget, so
that a long prompt holds up nobody for longer than one chunk. All sequences whose
prompt is through decode behind them. Nothing fails for want of pages: the newest
sequence is put back, and its prompt and answer run again later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from owl2_jax.inference.images import RequestImage
from owl2_jax.inference.kv_cache import PagePool
from owl2_jax.inference.prefix_cache import PrefixCache
from owl2_jax.inference.sequence import Sequence


@dataclass(frozen=True)
class Budget:
    """Limits of one plan.

    Attributes:
      sequences: most that run.
      tokens: of prompts.
      rows: prompts that have tokens in it.
      images: that have to be encoded.
      features: different images.
      decode_steps: tokens of each answer.
    """

    sequences: int
    tokens: int
    rows: int
    images: int
    features: int
    decode_steps: int


@dataclass(frozen=True)
class Chunk:
    """Positions `start` to `end` of a sequence; behind the `last` chunk its next token is chosen."""

    sequence: Sequence
    start: int
    end: int
    last: bool

    def images(self) -> list[RequestImage]:
        """The images of which some positions are in the chunk."""
        return [image for _, image in images_in(self.sequence, self.start, self.end)]


@dataclass
class Plan:
    """What the device is to do.

    Attributes:
      copies: (from, to), pages to copy first.
      admitted: sequences that got a row.
      chunks: pieces of prompts.
      decoding: sequences that go on with their newest token, those of the last chunks among them.
    """

    copies: list[tuple[int, int]] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    decoding: list[Sequence] = field(default_factory=list)


class Scheduler:
    """Sequences from their arrival to their end.

    Attributes:
      waiting, running: in order of arrival.
      preempted: how often a sequence was put back.
      computed: prompt positions planned so far; shared ones are not counted.
    """

    def __init__(
        self, pool: PagePool, cache: PrefixCache, budget: Budget, is_encoded: Callable[[RequestImage], bool]
    ):
        """`is_encoded` tells whether the features of an image are at hand."""
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preempted = 0
        self.computed = 0
        self._pool = pool
        self._cache = cache
        self._budget = budget
        self._is_encoded = is_encoded
        self._rows = list(range(budget.sequences))[::-1]

    def __iter__(self) -> Iterator[Sequence]:
        return iter([*self.running, *self.waiting])

    def add(self, sequence: Sequence) -> None:
        """Puts a new sequence at the end of those that wait."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Takes out a sequence that ended; its row and pages are free at once."""
        if sequence.row < 0:
            self.waiting.remove(sequence)
        else:
            self._stop(sequence)

    def plan(self) -> Plan:
        """Decides what runs next, and gives it the pages it needs."""
        plan = Plan()
        for sequence in list(self.running):
            ready = sequence.row >= 0 and sequence.decoding and not sequence.waits
            if ready and self._grow(sequence):
                plan.decoding.append(sequence)
        self._plan_chunks(plan)
        plan.decoding += [chunk.sequence for chunk in plan.chunks if chunk.last and _goes_on(chunk.sequence)]
        return plan

    def _plan_chunks(self, plan: Plan) -> None:
        left = self._budget.tokens
        images: dict[bytes, bool] = {}  # of the plan: key, and whether it is encoded
        unfinished = [sequence for sequence in self.running if not sequence.decoding]
        for sequence in chain(unfinished, self._admissible()):
            if not left or len(plan.chunks) == self._budget.rows:
                return
            if sequence.row < 0 and not self._admit(sequence, plan):
                return
            end = self._cut_at_images(sequence, min(sequence.end, sequence.computed + left), images)
            if end == sequence.computed:
                return
            plan.chunks.append(Chunk(sequence, sequence.computed, end, end == sequence.end))
            left -= end - sequence.computed
            self.computed += end - sequence.computed
            sequence.computed = end
            self._remember(sequence, ready=False)

    def _admissible(self) -> Iterator[Sequence]:
        """Waiting sequences, as long as each is admitted before the next is asked for."""
        while self.waiting:
            yield self.waiting[0]

    def _admit(self, sequence: Sequence, plan: Plan) -> bool:
        """Gives a waiting sequence a row and pages for its tokens and the first steps behind them."""
        if not self._rows:
            return False
        found = self._cache.match(sequence.signature[: sequence.shareable], sequence.root)
        positions = sequence.length + min(self._budget.decode_steps, sequence.left)
        pages = self._pool.take(self._pool.pages_for(positions) - len(found.pages))
        if pages is not None:
            self.waiting.popleft()
            self.running.append(sequence)
            plan.admitted.append(sequence)
            sequence.row = self._rows.pop()
            sequence.pages = found.pages + pages
            sequence.computed = len(found.pages) * self._pool.page_size + found.extra
            if found.extra:
                plan.copies.append((found.source, pages[0]))
        else:
            self._pool.release(found.pages)
        if found.extra:
            self._pool.release([found.source])
        return pages is not None

    def _cut_at_images(self, sequence: Sequence, end: int, planned: dict[bytes, bool]) -> int:
        """The end of a chunk, before an image that would be one too many."""
        for start, image in images_in(sequence, sequence.computed, end):
            if image.key in planned:
                continue
            encoded = self._is_encoded(image)
            new = sum(not known for known in planned.values())
            if len(planned) == self._budget.features or (not encoded and new == self._budget.images):
                return max(start, sequence.computed)
            planned[image.key] = encoded
        return end

    def _grow(self, sequence: Sequence) -> bool:
        """Pages for the next steps of an answer; False when the sequence itself had to be put back."""
        positions = sequence.length - 1 + min(self._budget.decode_steps, sequence.left)
        missing = self._pool.pages_for(positions) - len(sequence.pages)
        if missing <= 0:
            return True
        while (pages := self._pool.take(missing)) is None:
            newest = self.running[-1]
            self._stop(newest)
            newest.computed = 0
            self.waiting.appendleft(newest)
            self.preempted += 1
            if newest is sequence:
                return False
        sequence.pages += pages
        return True

    def _stop(self, sequence: Sequence) -> None:
        self._remember(sequence, ready=True)
        self.running.remove(sequence)
        self._pool.release(sequence.pages, self._cache.__contains__)
        self._rows.append(sequence.row)
        sequence.pages, sequence.row = [], -1

    def _remember(self, sequence: Sequence, ready: bool) -> None:
        """Notes what the pages of a sequence hold: whole pages while it runs, everything at its end."""
        end = sequence.computed if ready else sequence.computed // self._pool.page_size * self._pool.page_size
        self._cache.insert(sequence.signature[:end], sequence.pages, ready, sequence.root)

    def ran(self, plan: Plan) -> None:
        """The device was told to do what was planned: what it writes may be copied by later plans."""
        for chunk in plan.chunks:
            sequence, size = chunk.sequence, self._pool.page_size
            whole = chunk.end // size * size
            self._cache.insert(sequence.signature[:whole], sequence.pages, True, sequence.root)


def _goes_on(sequence: Sequence) -> bool:
    """Whether a sequence may get its second token in the step of its first; a form has to see the first."""
    return sequence.left > 1 and sequence.matcher is None


def images_in(sequence: Sequence, start: int, end: int) -> list[tuple[int, RequestImage]]:
    """First position and image of those that have a position from `start` to `end`."""
    prompt = sequence.prompt
    return [
        (at, image)
        for at, image in zip(prompt.image_starts, prompt.images, strict=True)
        if at < end and at + prompt.span > start
    ]
