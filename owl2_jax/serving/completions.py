"""Answers as the OpenAI API writes them: one object, or a stream of server-sent events."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

from owl2_jax.data.tokenizer import Tokenizer
from owl2_jax.inference.request import Event, Result, TokenLogprobs
from owl2_jax.serving.calls import ChatCall

DONE = b"data: [DONE]\n\n"


class Completion:
    """Writes the answer to one call.

    Args:
      call: what was asked.
      model: the name clients know.
      tokenizer: to name tokens by.
    """

    def __init__(self, call: ChatCall, model: str, tokenizer: Tokenizer):
        self._call = call
        self._tokenizer = tokenizer
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, result: Result) -> dict[str, Any]:
        """The object of a finished answer."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": result.text, "refusal": None},
            "logprobs": self._logprobs(result) if self._call.logprobs else None,
            "finish_reason": result.finish_reason,
        }
        counts = usage(result.prompt_tokens, len(result.token_ids))
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": counts}

    def begin(self) -> bytes:
        """The first event of a stream."""
        return self._event({"role": "assistant", "content": ""})

    def piece(self, event: Event) -> bytes:
        """The event of some more text, with the tokens chosen meanwhile and their number, if asked for."""
        return self._event(
            {"content": event.text},
            self._logprobs(event.logprobs) if event.logprobs else None,
            counts=usage(event.prompt_tokens, event.new_tokens),
        )

    def end(self, result: Result) -> Iterator[bytes]:
        """The last events: the reason to end, token counts, if asked for, and the mark of the end."""
        counts = usage(result.prompt_tokens, len(result.token_ids))
        yield self._event({}, reason=result.finish_reason, counts=counts)
        if self._call.include_usage:
            yield _encode({**self._chunk(), "choices": [], "usage": counts})
        yield DONE

    def _event(
        self,
        delta: dict[str, str],
        logprobs: Any = None,
        reason: str | None = None,
        counts: dict[str, int] | None = None,
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        told = {"usage": counts} if self._call.usage_in_pieces and counts else {}
        return _encode({**self._chunk(), "choices": [choice], **told})

    def _chunk(self) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk"}

    def _logprobs(self, result: Result | TokenLogprobs) -> dict[str, Any]:
        """Every token before `</s>`, those of a stop text included, with the likely ones at its place."""
        content = []
        tops = result.top_logprobs or [[]] * len(result.token_ids)
        for token, logprob, top in zip(result.token_ids, result.logprobs, tops, strict=True):
            if token == self._tokenizer.eos_id:
                break
            top = top[: self._call.top_logprobs]
            content.append(
                {**self._token(token, logprob), "top_logprobs": [self._token(*one) for one in top]}
            )
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(token)
        # JSON has no -inf; OpenAI writes this number for a token that cannot be.
        return {"token": data.decode(errors="replace"), "logprob": max(logprob, -9999.0), "bytes": list(data)}


def usage(prompt: int, answer: int) -> dict[str, int]:
    """Numbers of tokens; those of the prompt count the positions of images."""
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _encode(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
