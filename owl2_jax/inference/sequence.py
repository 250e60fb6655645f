"""A request on its way through the engine: its tokens, its pages, and how far both have come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from owl2_jax.inference.detokenizer import Answer
from owl2_jax.inference.inputs import Prompt
from owl2_jax.inference.request import Request, TokenLogprobs
from owl2_jax.structured.matcher import Matcher


@dataclass(eq=False)
class Sequence:
    """A prompt and the answer that grows behind it.

    Attributes:
      request_id: its number; earlier requests have smaller ones.
      request: what was asked.
      prompt: its positions.
      limit: most tokens of the answer; 0 when the prompt alone is of interest.
      answer: the answer so far.
      matcher: where the answer stands in the form it is to have, if any.
      root: of the prefix cache; prompts of different roots share no pages.
      tokens: int32[prompt + limit], of which `length` are known; V where an image stands.
      signature: int64 like `tokens`, with the keys of images where they stand.
      length: known tokens.
      computed: positions whose keys and values are in its pages.
      pages: its block table.
      row: where its penalties and its newest token stand on the device; -1 while it waits.
      scored_from: the first position of the prompt whose log-probability is asked for.
    """

    request_id: int
    request: Request
    prompt: Prompt
    limit: int
    answer: Answer
    matcher: Matcher | None = None
    root: bytes = b""
    tokens: np.ndarray = field(init=False)
    signature: np.ndarray = field(init=False)
    length: int = field(init=False)
    computed: int = 0
    pages: list[int] = field(default_factory=list)
    row: int = -1

    def __post_init__(self) -> None:
        scored = min(self.request.prompt_logprobs, len(self.prompt) - 1)
        self.scored_from = len(self.prompt) - scored
        self.length = len(self.prompt)
        self.tokens = np.zeros(self.length + self.limit, np.int32)
        self.signature = np.zeros(self.length + self.limit, np.int64)
        self.tokens[: self.length] = self.prompt.tokens
        self.signature[: self.length] = self.prompt.signature
        if self.request.prompt_logprobs:
            ids = self.tokens[self.scored_from : self.length].tolist()
            told = TokenLogprobs(ids, [0.0] * scored, [[] for _ in ids])
            self.answer.result.prompt_logprobs = told

    @property
    def generated(self) -> int:
        """Tokens of the answer so far."""
        return self.length - len(self.prompt)

    def take_scores(self, start: int, end: int, scores: Any, place: int = 0) -> None:
        """Takes the targets behind positions `start` to `end`: of `sampler.Chosen` [T], from `place` on."""
        found, top = self.answer.result.prompt_logprobs, self.request.top_logprobs
        first, last = max(start, self.scored_from - 1), min(end, len(self.prompt) - 1)
        if first >= last:
            return
        taken = slice(place + first - start, place + last - start)
        into = slice(first + 1 - self.scored_from, last + 1 - self.scored_from)
        found.logprobs[into] = scores.logprobs[taken].tolist()
        if top:
            ids, logprobs = scores.top_tokens[taken, :top].tolist(), scores.top_logprobs[taken, :top].tolist()
            found.top_logprobs[into] = [
                list(zip(*both, strict=True)) for both in zip(ids, logprobs, strict=True)
            ]

    @property
    def end(self) -> int:
        """Positions that have to run before its next token; of an answer of none, the last need not."""
        return self.length if self.limit else self.length - 1

    @property
    def shareable(self) -> int:
        """Positions that another sequence may have run, and the one behind: those scored run here."""
        return self.length if self.scored_from == len(self.prompt) else self.scored_from

    def targets(self, start: int, end: int) -> np.ndarray:
        """int32[end - start], the token behind each position, -1 where nobody asks for it."""
        found = np.full(end - start, -1, np.int32)
        first, last = max(start, self.scored_from - 1), min(end, len(self.prompt) - 1)
        if first < last:
            tokens = self.tokens[first + 1 : last + 1]
            is_image = self.signature[first + 1 : last + 1] < 0
            found[first - start : last - start] = np.where(is_image, -1, tokens)
        return found

    @property
    def left(self) -> int:
        """Tokens that the answer may still get."""
        return self.limit - self.generated

    @property
    def decoding(self) -> bool:
        """Whether nothing but its newest token has to run."""
        return self.generated > 0 and self.computed == self.length - 1

    @property
    def waits(self) -> bool:
        """Whether it is not known yet what may come next; others go on meanwhile."""
        return self.matcher is not None and not self.matcher.ready

    @property
    def failed(self) -> bool:
        """Whether nothing may come next, so that its form cannot be had; waits until that is known."""
        return self.matcher is not None and self.matcher.failed

    def append(self, tokens: np.ndarray) -> None:
        """Takes tokens int32[n] of the answer; all but the last are in the pages."""
        end = self.length + len(tokens)
        self.tokens[self.length : end] = tokens
        self.signature[self.length : end] = tokens
        self.length = end
        self.computed = end - 1
