"""The search for the answers to one prompt, as the host sees it: what was chosen, and answers from that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from owl2_jax.beam_search.ranking import Finished, Grown
from owl2_jax.data.tokenizer import Tokenizer
from owl2_jax.inference.detokenizer import Answer
from owl2_jax.inference.request import Result
from owl2_jax.inference.sequence import Sequence


@dataclass(frozen=True)
class _Chosen:
    """What `Answer.extend` reads of `sampler.Chosen`."""

    tokens: np.ndarray
    logprobs: np.ndarray


@dataclass(eq=False)
class OneSearch:
    """The search for the answers to one prompt.

    Attributes:
      sequence: the prompt, with the pages of the first answer as far as it reaches.
      pages: those of all answers.
      steps: how the answers of each step came to be: of a call, the step and the search there.
      finished: the best, once it has ended.
    """

    sequence: Sequence
    pages: list[int] = field(default_factory=list)
    steps: list[tuple[Grown, int, int]] = field(default_factory=list)
    finished: Finished | None = None
    began: float = field(default_factory=time.perf_counter)

    def _answers(self) -> Iterator[_Chosen]:
        """The finished answers, best first, each followed back from its last token."""
        last = self.finished
        for place in np.flatnonzero(last.scores > -np.inf):
            tokens, logprobs, parent = [last.tokens[place]], [last.logprobs[place]], last.parents[place]
            for trail, step, number in reversed(self.steps[: last.steps[place]]):
                tokens.append(trail.tokens[step, number, parent])
                logprobs.append(trail.logprobs[step, number, parent])
                parent = trail.parents[step, number, parent]
            yield _Chosen(np.array(tokens[::-1]), np.array(logprobs[::-1]))

    def results(self, tokenizer: Tokenizer, told: int) -> list[Result]:
        """The best `told`, read as answers that grow: they end where such a one would."""
        results, sequence = [], self.sequence
        for chosen in islice(self._answers(), told):
            answer = Answer(sequence.request, tokenizer, len(sequence.prompt))
            answer.extend(chosen)
            answer.end("length")
            answer.result.seconds = time.perf_counter() - self.began
            results.append(answer.result)
        return results
