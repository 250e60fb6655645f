"""Which answers of a beam search go on, and which are the best finished ones; see `search`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from owl2_jax.inference.sequence import Sequence as Running


@dataclass
class Beam:
    """An answer.

    Attributes:
      score: sum of log-probabilities, of a finished one divided.
      tokens, logprobs: of the answer so far.
      pages: of an unfinished one.
      written: how much of a text that ends answers it ends with; see `end_texts`.
    """

    score: np.float32
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    written: int = 0

    def with_token(self, token: int, logprob: float, score: np.float32, written: int) -> Beam:
        """A copy that goes on with a token; `score` and `written` are those with it."""
        return Beam(score, [*self.tokens, token], [*self.logprobs, logprob], written=written)


class Search:
    """The search for the answers to one prompt.

    Attributes:
      sequence: the prompt.
      running, finished: best first, N at most.
    """

    def __init__(
        self, sequence: Running, beams: int, length_penalty: float, end_table: np.ndarray | None = None
    ):
        """`end_table` is that of `end_texts`."""
        self.sequence = sequence
        self.running = [Beam(np.float32(0))]
        self.finished: list[Beam] = []
        self._beams = beams
        self._penalty = np.float32(length_penalty)
        self._end_table = end_table
        self.began = time.perf_counter()

    @property
    def length(self) -> int:
        """Tokens of the unfinished answers."""
        return len(self.running[0].tokens)

    @property
    def going(self) -> bool:
        """Whether an unfinished answer may become better than the finished ones."""
        if not self.running or self.length == self.sequence.limit:
            return False
        if len(self.finished) < self._beams:
            return True
        # Every further token lowers the sum; only the divisor can still help.
        reachable = self.running[0].score / np.float32(self.sequence.limit) ** self._penalty
        return bool(reachable > self.finished[-1].score)

    def advance(self, logprobs: np.ndarray, tokens: np.ndarray, eos_id: int) -> list[int]:
        """Extends the unfinished answers by the likeliest tokens of each, [n, C], best first.

        Returns:
          For every answer that goes on, which of those before it extends.
        """
        totals = np.array([beam.score for beam in self.running], np.float32)[:, None] + logprobs
        best = np.argsort(-totals, axis=None, kind="stable")
        columns = totals.ravel()[best], logprobs.ravel()[best].tolist(), tokens.ravel()[best].tolist()
        grown, parents = [], []
        for rank, (total, logprob, token) in enumerate(zip(*columns, strict=True)):
            if rank >= 2 * self._beams and len(grown) == self._beams:
                break
            if logprob == -np.inf:
                continue
            parent = int(best[rank]) // totals.shape[1]
            before = self.running[parent]
            written, whole = self._written(before, token)
            if token == eos_id or whole:
                if rank < 2 * self._beams:
                    self._finish([before.with_token(token, logprob, total, written)])
            elif len(grown) < self._beams:
                grown.append(before.with_token(token, logprob, total, written))
                parents.append(parent)
        self.running = grown
        if grown and self.length == self.sequence.limit:
            self._finish(grown)
        return parents

    def _written(self, beam: Beam, token: int) -> tuple[int, bool]:
        """`Beam.written` after a token, and whether a text is whole with it that ends the answer."""
        if self._end_table is None or len(beam.tokens) + 1 < self.sequence.request.min_new_tokens:
            return 0, False  # what has to be said begins no such text
        written = int(self._end_table[beam.written, token])
        return written, written == len(self._end_table)

    def _finish(self, beams: Sequence[Beam]) -> None:
        scored = [
            Beam(beam.score / np.float32(len(beam.tokens)) ** self._penalty, beam.tokens, beam.logprobs)
            for beam in beams
        ]
        self.finished = sorted([*self.finished, *scored], key=lambda beam: -beam.score)[: self._beams]
