"""Completions of texts as OpenAI's older interface writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from owl2_jax.core.overriding import override
from owl2_jax.data.tokenizer import StreamDecoder, Tokenizer
from owl2_jax.inference.request import Event, Result, TokenLogprobs
from owl2_jax.serving.completions import LEAST, Writer
from owl2_jax.serving.text_calls import TextCall
from owl2_jax.serving.text_prompts import TextPrompt

# Name of a token, its log-probability, likely tokens in its place, and where its text begins.
_Row = tuple[str, float | None, dict[str, float] | None, int]


class TextCompletion(Writer):
    """Writes the answers to prompts.

    Args:
      prompts: what is answered, in its order.
    """

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, call: TextCall, model: str, tokenizer: Tokenizer, prompts: Sequence[TextPrompt]):
        super().__init__(call, model, tokenizer)
        self._echo = call.echo
        self._prompts = [prompt for prompt in prompts for _ in range(call.count)]
        self._decoders = [tokenizer.stream(prompt.continues) for prompt in self._prompts]
        self._lengths = [len(prompt.text) * self._echo for prompt in self._prompts]  # of texts so far
        self._echoed: set[int] = set()  # choices of a stream whose prompt is told with log-probabilities

    @override
    def begin(self) -> Iterator[bytes]:
        """The prompts, where they are asked for and have no log-probabilities."""
        for index, prompt in enumerate(self._prompts):
            # With log-probabilities a prompt comes when it has them.
            if self._echo and prompt.text and not self._call.logprobs:
                yield self._chunk(_part(index, prompt.text))

    def _choice(self, index: int, result: Result) -> dict[str, Any]:
        text = self._prompts[index].text if self._echo else ""
        logprobs = None
        if self._call.logprobs:
            logprobs = self._lists(self._of_prompt(index, result) + self._of_answer(index, result))
        return _part(index, text + result.text, logprobs, result.finish_reason)

    def _more(self, index: int, event: Event) -> dict[str, Any]:
        if event.logprobs is None:
            return _part(index, event.text)
        text, rows = self._echo_once(index, event)
        return _part(index, text + event.text, self._lists(rows + self._of_answer(index, event.logprobs)))

    def _last(self, index: int, result: Result) -> dict[str, Any]:
        text, rows = self._echo_once(index, result) if self._call.logprobs else ("", [])
        return _part(index, text, self._lists(rows) if rows else None, result.finish_reason)

    def _echo_once(self, index: int, told: Result | Event) -> tuple[str, list[_Row]]:
        """An echoed prompt and its tokens, with the first that a stream tells of a choice."""
        if not self._echo or index in self._echoed:
            return "", []
        self._echoed.add(index)
        return self._prompts[index].text, self._of_prompt(index, told)

    def _of_prompt(self, index: int, told: Result | Event) -> list[_Row]:
        """The tokens of an echoed prompt; nothing stands in front of the first to expect it from."""
        if not self._echo:
            return []
        first = int(self._prompts[index].ids[0])
        rest = told.prompt_logprobs or TokenLogprobs([], [], [])
        tops = [top[: self._call.top_logprobs] for top in rest.top_logprobs]
        tokens = [(first, None, None), *zip(rest.token_ids, rest.logprobs, tops, strict=True)]
        decoder, end, rows = self._tokenizer.stream(), 0, []
        for token, logprob, top in tokens:
            row, end = self._row(decoder, end, token, logprob, top)
            rows.append(row)
        return rows

    def _of_answer(self, index: int, told: Result | TokenLogprobs) -> list[_Row]:
        rows = []
        for token, logprob, top in self._tokens(told):
            row, self._lengths[index] = self._row(
                self._decoders[index], self._lengths[index], token, logprob, top
            )
            rows.append(row)
        return rows

    def _row(
        self, decoder: StreamDecoder, end: int, token: int, logprob: float | None,
        top: Sequence[tuple[int, float]] | None,
    ) -> tuple[_Row, int]:  # fmt: skip
        """Name, log-probability, likely tokens and offset of a token, and where the text ends with it."""
        name, text = self._name(token), decoder.feed(token)
        end += len(text)
        # Bytes in front that became no character are written out only now.
        own = len(name) if text.endswith(name) else len(text)
        likely = None if top is None else {self._name(one): max(value, LEAST) for one, value in top}
        return (name, None if logprob is None else max(logprob, LEAST), likely, end - own), end

    def _lists(self, rows: Sequence[_Row]) -> dict[str, Any]:
        """Four lists side by side; a token's offset is where its text begins in the text of the choice."""
        names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        found: dict[str, Any] = {name: [row[place] for row in rows] for place, name in enumerate(names)}
        if not self._call.top_logprobs:
            found["top_logprobs"] = None
        return found

    def _name(self, token: int) -> str:
        """The text of a token; a byte that is no character by itself as OpenAI writes it."""
        data = self._tokenizer.token_bytes(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _part(index: int, text: str, logprobs: Any = None, reason: str | None = None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}
