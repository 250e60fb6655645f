"""The detokenizer: tokens to text while an answer grows, stop texts, and what may be shown already."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from owl2_jax.data.tokenizer import Tokenizer
from owl2_jax.inference.request import Event, FinishReason, Request, Result, TokenLogprobs


class Answer:
    """Takes tokens as they come and gives out text that will not change any more.

    Attributes:
      result: complete once `ended` is set.
      ended: why the answer ended, or None.
    """

    def __init__(
        self,
        request: Request,
        tokenizer: Tokenizer,
        prompt_tokens: int,
        is_whole: Callable[[str], bool] | None = None,
    ):
        """`is_whole` tells whether a text is one of the form that the answer is to have."""
        self.result = Result(prompt_tokens=prompt_tokens)
        self.ended: FinishReason | None = None
        self._stop = (*request.stop, *tokenizer.end_texts)
        self._asked = frozenset(request.stop)
        self._is_whole = is_whole
        self._wholes: dict[int, bool] = {}  # by length of the text
        self._shortest = request.min_new_tokens
        self._stop_from = 0  # where a stop text may begin: not in what had to be said
        self._top = request.top_logprobs
        self._end_ids = frozenset(request.end_ids(tokenizer.eos_id))
        self._decoder = tokenizer.stream(request.continues)
        self._shown = 0
        self._began = time.perf_counter()
        self._stream_logprobs = request.stream_logprobs
        self._prompt_told = False
        self._told = 0  # tokens whose log-probabilities were given out

    def extend(self, chosen: Any) -> None:
        """Takes `sampler.Chosen` of n tokens; what comes after the end is dropped."""
        if self.ended:
            return
        if not self._stop:
            self._take(chosen, len(chosen.tokens))
            return
        for index in range(len(chosen.tokens)):
            self._take(chosen, index + 1, index)
            if self.ended:
                return

    def _take(self, chosen: Any, end: int, start: int = 0) -> None:
        tokens = chosen.tokens[start:end].tolist()
        last = next((place for place, token in enumerate(tokens) if token in self._end_ids), None)
        if last is not None:
            tokens = tokens[: last + 1]
        end = start + len(tokens)
        result = self.result
        result.token_ids += tokens
        result.logprobs += chosen.logprobs[start:end].tolist()
        if self._top:
            for ids, logprobs in zip(
                chosen.top_tokens[start:end], chosen.top_logprobs[start:end], strict=True
            ):
                result.top_logprobs.append(
                    list(zip(ids[: self._top].tolist(), logprobs[: self._top].tolist(), strict=True))
                )
        result.text += self._decoder.feed(tokens[:last])
        if self._stop and len(result.token_ids) < self._shortest:
            self._stop_from = len(result.text)
        if last is not None or self._stop_at() is not None:
            self.end("stop")

    def end(self, reason: FinishReason) -> None:
        """Ends the answer, once."""
        if self.ended is None:
            self.ended = self.result.finish_reason = reason
            self.result.seconds = time.perf_counter() - self._began
            self.result.text += self._decoder.finish()
            self.result.text = self.result.text[: self._stop_at()]

    def fail(self, error: str) -> None:
        """Ends the answer because it cannot go on."""
        if self.ended is None:
            self.result.error = error
            self.end("error")

    def new_text(self) -> str:
        """Text not given out before; what might be the beginning of a stop text is held back."""
        text = self.result.text
        end = len(text) if self.ended else len(text) - self._held_back()
        new, self._shown = text[self._shown : end], max(end, self._shown)
        return new

    def event(self, request_id: int, text: str) -> Event:
        """The progress since the event before; `text` is what `new_text` gave."""
        result = self.result
        counts = (result.prompt_tokens, len(result.token_ids))
        whole = result if self.ended else None
        prompt = None if self._prompt_told else result.prompt_logprobs
        self._prompt_told = True
        return Event(request_id, text, whole, self.new_logprobs(), *counts, prompt)

    def new_logprobs(self) -> TokenLogprobs | None:
        """Those of the tokens not given out before; None when there are none, or nobody wants them."""
        result, start = self.result, self._told
        if not self._stream_logprobs or start == len(result.token_ids):
            return None
        self._told = len(result.token_ids)
        return TokenLogprobs(result.token_ids[start:], result.logprobs[start:], result.top_logprobs[start:])

    def _stop_at(self) -> int | None:
        """Where the first stop text begins."""
        places = map(self._first, self._stop)
        return min((place for place in places if place >= 0), default=None)

    def _first(self, stop: str) -> int:
        """Where a stop text begins; -1 for nowhere."""
        place = self.result.text.find(stop, self._stop_from)
        while place >= 0 and not self._ends(stop, place):
            place = self.result.text.find(stop, place + 1)
        return place

    def _ends(self, stop: str, place: int) -> bool:
        """What the tokenizer ends answers with is a part of a form's text, unless the form may end there."""
        if self._is_whole is None or stop in self._asked:
            return True
        if place not in self._wholes:
            self._wholes[place] = self._is_whole(self.result.text[:place])
        return self._wholes[place]

    def _held_back(self) -> int:
        """Length of the longest end of the text that begins a stop text."""
        text = self.result.text[self._stop_from :]
        return max(
            (n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0
        )
