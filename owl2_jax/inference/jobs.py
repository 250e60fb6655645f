"""A request on its way through the engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from owl2_jax.inference.answer import Answer
from owl2_jax.inference.inputs import Prompt
from owl2_jax.inference.request import Request


@dataclass
class Job:
    """A request from submission to its result.

    Attributes:
      request_id: its number.
      request: what was asked.
      prompt: its positions.
      limit: most tokens of the answer.
      answer: the answer so far.
      slot: where it runs; -1 while it waits.
      source, kept: slot whose first `kept` positions are those of this prompt
        and are copied; kept is 0 when the whole prompt runs.
      wave: prompts that copy from one of wave n of the same step are of wave n + 1.
    """

    request_id: int
    request: Request
    prompt: Prompt
    limit: int
    answer: Answer
    slot: int = -1
    source: int = -1
    kept: int = 0
    wave: int = 0

    @property
    def positions(self) -> int:
        """Cache positions it may need."""
        return len(self.prompt) + self.limit

    @property
    def rest(self) -> Prompt:
        """The part of the prompt that has to run."""
        return self.prompt.after(self.kept) if self.kept else self.prompt

    def sequence(self) -> np.ndarray:
        """What its slot holds: the prompt, and the answer without the newest token."""
        answer = np.array(self.answer.result.token_ids[:-1], np.int64)
        return np.concatenate([self.prompt.signature, self.prompt.marked(answer)])
