"""Answers as the OpenAI API writes them: one object, or a stream of server-sent events."""

from __future__ import annotations

import abc
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from owl2_jax.core.overriding import override
from owl2_jax.data.tokenizer import Tokenizer
from owl2_jax.inference.request import Event, Result, TokenLogprobs
from owl2_jax.serving.calls import Call

DONE = b"data: [DONE]\n\n"
LEAST = -9999.0  # JSON has no -inf; OpenAI writes this number for a token that cannot be


class Writer(abc.ABC):
    """What both kinds of completions have in common; a choice is one answer to one prompt.

    Args:
      call: what was asked.
      model: the name clients know.
      tokenizer: to name tokens by.
    """

    prefix: str
    kind: str
    chunk_kind: str

    def __init__(self, call: Call, model: str, tokenizer: Tokenizer):
        self._call = call
        self._tokenizer = tokenizer
        self._end_ids = {*call.stop_token_ids, *([] if call.ignore_eos else [tokenizer.eos_id])}
        self._head = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }
        self._counts: dict[int, tuple[int, int]] = {}  # by choice: tokens of prompt and answer

    def whole(self, results: Sequence[Result]) -> dict[str, Any]:
        """The object of finished answers."""
        for index, result in enumerate(results):
            self._counts[index] = (result.prompt_tokens, len(result.token_ids))
        choices = [self._choice(index, result) for index, result in enumerate(results)]
        return {**self._head, "object": self.kind, "choices": choices, "usage": self._usage()}

    def begin(self) -> Iterator[bytes]:
        """The first events of a stream."""
        return iter(())

    def piece(self, index: int, event: Event) -> bytes:
        """The event of some more text, with the tokens chosen meanwhile and their number, if asked for."""
        self._counts[index] = (event.prompt_tokens, event.new_tokens)
        return self._chunk(self._more(index, event), counted=True)

    def end(self, index: int, result: Result) -> bytes:
        """The event that says why a choice ended."""
        self._counts[index] = (result.prompt_tokens, len(result.token_ids))
        return self._chunk(self._last(index, result), counted=True)

    def close(self) -> Iterator[bytes]:
        """The last events: token counts, if asked for, and the mark of the end."""
        if self._call.include_usage:
            yield _encode({**self._head, "object": self.chunk_kind, "choices": [], "usage": self._usage()})
        yield DONE

    @abc.abstractmethod
    def _choice(self, index: int, result: Result) -> dict[str, Any]: ...

    @abc.abstractmethod
    def _more(self, index: int, event: Event) -> dict[str, Any]: ...

    @abc.abstractmethod
    def _last(self, index: int, result: Result) -> dict[str, Any]: ...

    def _chunk(self, choice: dict[str, Any], counted: bool = False) -> bytes:
        told = {"usage": self._usage()} if self._call.usage_in_pieces and counted else {}
        return _encode({**self._head, "object": self.chunk_kind, "choices": [choice], **told})

    def _usage(self) -> dict[str, int]:
        """Numbers of tokens; those of a prompt count the positions of images, and count once."""
        count = self._call.count
        prompts = {index // count: prompt for index, (prompt, _) in self._counts.items()}
        prompt, answer = sum(prompts.values()), sum(answer for _, answer in self._counts.values())
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}

    def _tokens(
        self, result: Result | TokenLogprobs
    ) -> Iterator[tuple[int, float, Sequence[tuple[int, float]]]]:
        """Every token, up to one that ends the answer, with likely ones; a stop text is among them."""
        tops = result.top_logprobs or [[]] * len(result.token_ids)
        for token, logprob, top in zip(result.token_ids, result.logprobs, tops, strict=True):
            if token in self._end_ids:
                break
            yield token, logprob, top[: self._call.top_logprobs]


class Completion(Writer):
    """Writes the answers to a conversation."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    @override
    def begin(self) -> Iterator[bytes]:
        """An event per answer that names its role."""
        for index in range(self._call.count):
            yield self._chunk(_delta(index, {"role": "assistant", "content": ""}))

    def _choice(self, index: int, result: Result) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": result.text, "refusal": None},
            "logprobs": self._logprobs(result) if self._call.logprobs else None,
            "finish_reason": result.finish_reason,
        }

    def _more(self, index: int, event: Event) -> dict[str, Any]:
        logprobs = self._logprobs(event.logprobs) if event.logprobs else None
        return _delta(index, {"content": event.text}, logprobs)

    def _last(self, index: int, result: Result) -> dict[str, Any]:
        return _delta(index, {}, reason=result.finish_reason)

    def _logprobs(self, result: Result | TokenLogprobs) -> dict[str, Any]:
        content = [
            {**self._token(token, logprob), "top_logprobs": [self._token(*one) for one in top]}
            for token, logprob, top in self._tokens(result)
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(token)
        return {"token": data.decode(errors="replace"), "logprob": max(logprob, LEAST), "bytes": list(data)}


def _delta(
    index: int, delta: dict[str, str], logprobs: Any = None, reason: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _encode(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
