"""Completions of texts as OpenAI's older interface writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from owl2_jax.data.tokenizer import Tokenizer
from owl2_jax.inference.request import Event, Result, TokenLogprobs
from owl2_jax.serving.completions import LEAST, Writer
from owl2_jax.serving.text_calls import TextCall


class TextCompletion(Writer):
    """Writes the answers to prompts.

    Args:
      continues: of each prompt, whether a space in front of its answer belongs to the text.
      echoes: of each prompt, its text, when the answers repeat it.
    """

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(
        self,
        call: TextCall,
        model: str,
        tokenizer: Tokenizer,
        continues: Sequence[bool],
        echoes: Sequence[str] | None = None,
    ):
        super().__init__(call, model, tokenizer)
        self._echoes = echoes
        places = range(len(continues) * call.count)
        self._decoders = [tokenizer.stream(continues[place // call.count]) for place in places]
        self._lengths = [len(self._echo(place)) for place in places]  # of the texts so far, in characters

    def begin(self) -> Iterator[bytes]:
        for index in range(len(self._decoders)):
            if self._echo(index):
                yield self._chunk(_part(index, self._echo(index)))

    def _choice(self, index: int, result: Result) -> dict[str, Any]:
        logprobs = self._logprobs(index, result) if self._call.logprobs else None
        return _part(index, self._echo(index) + result.text, logprobs, result.finish_reason)

    def _more(self, index: int, event: Event) -> dict[str, Any]:
        return _part(index, event.text, self._logprobs(index, event.logprobs) if event.logprobs else None)

    def _last(self, index: int, result: Result) -> dict[str, Any]:
        return _part(index, "", reason=result.finish_reason)

    def _echo(self, index: int) -> str:
        return self._echoes[index // self._call.count] if self._echoes else ""

    def _logprobs(self, index: int, result: Result | TokenLogprobs) -> dict[str, Any]:
        """Four lists side by side; a token's offset is where its text begins in the text of the choice."""
        found: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, logprob, top in self._tokens(result):
            name, text = self._name(token), self._decoders[index].feed(token)
            found["tokens"].append(name)
            found["token_logprobs"].append(max(logprob, LEAST))
            found["top_logprobs"].append({self._name(one): max(value, LEAST) for one, value in top})
            self._lengths[index] += len(text)
            # Bytes in front that became no character are written out only now.
            own = len(name) if text.endswith(name) else len(text)
            found["text_offset"].append(self._lengths[index] - own)
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
