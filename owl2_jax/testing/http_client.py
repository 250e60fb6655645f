"""A client of a server of completions: one connection that asks, reads streams, and may hang up.

It is lean, for it shares the machine with the server that it loads.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

CHAT: Final = "/v1/chat/completions"
_LONGEST_LINE: Final = 2**22  # bytes; log-probabilities of a whole answer may stand in one


@dataclass
class Reply:
    """What a request got.

    Attributes:
      status: of HTTP.
      choices: by number: text, reason of the end, tokens with log-probabilities, and the likeliest in
        the place of each, [name, log-probability], as `tops`; or where the model looked.
      error: what was said in place of an answer.
      seconds: to the first text, or to the end where there was none.
      usage: numbers of tokens, where they were asked for.
    """

    status: int
    choices: dict[int, dict[str, Any]] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0
    usage: dict[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Of the answers; 0 where nobody asked."""
        return self.usage.get("completion_tokens", 0)

    def take(self, value: dict[str, Any], seconds: float) -> None:
        """Adds an object of a completion, whole or a piece of it, that came after `seconds`."""
        if "error" in value:
            self.error = value["error"]["message"]
        if value.get("usage"):
            self.usage = value["usage"]
        for choice in value.get("choices", ()):
            kept = self.choices.setdefault(
                choice["index"], {"text": "", "end": None, "logprobs": [], "tops": []}
            )
            part = choice.get("delta") or choice.get("message") or choice
            piece = part.get("content") or part.get("text") or ""
            if piece and not self.seconds:
                self.seconds = seconds
            kept["text"] += piece
            kept["end"] = choice.get("finish_reason") or kept["end"]
            told = choice.get("logprobs") or {}
            kept["logprobs"] += _token_logprobs(told)
            kept["tops"] += _likeliest(told)
        if "images" in value:  # where the model looked
            self.choices[0] = {"images": value["images"]}

    @property
    def content(self) -> list[Any]:
        """All that must be the same when the same is asked again."""
        choices = [self.choices[number] for number in sorted(self.choices)]
        return [self.status, self.error, choices, self.usage]


def _token_logprobs(told: dict[str, Any]) -> list[list[Any]]:
    """[token, log-probability] of both kinds of completions."""
    if "content" in told:
        return [[one["token"], one["logprob"]] for one in told["content"]]
    return [list(pair) for pair in zip(told.get("tokens", ()), told.get("token_logprobs", ()), strict=True)]


def _likeliest(told: dict[str, Any]) -> list[list[list[Any]]]:
    """[name, log-probability] of the likeliest in the place of each token, of both kinds of completions."""
    if "content" in told:
        return [[[top["token"], top["logprob"]] for top in one["top_logprobs"]] for one in told["content"]]
    return [[list(pair) for pair in (one or {}).items()] for one in told.get("top_logprobs") or ()]


class Client:
    """A connection to `url`, opened when it is first needed."""

    def __init__(self, url: str):
        self._address = urlsplit(url)
        self._reader: asyncio.StreamReader | None = None

    async def ask(self, body: bytes, path: str = CHAT) -> Reply:
        """Posts JSON and reads the whole answer.

        Raises:
          OSError, EOFError, ValueError: the connection broke, or what came is no answer.
        """
        began = time.perf_counter()
        await self._send(path, body, len(body))
        status, fields = await self._read_head()
        reply = Reply(status)
        if "chunked" in fields.get("transfer-encoding", ""):
            async for event in self._events():
                reply.take(event, time.perf_counter() - began)
        else:
            data = await self._reader.readexactly(int(fields["content-length"]))
            reply.take(json.loads(data), time.perf_counter() - began)
        reply.seconds = reply.seconds or time.perf_counter() - began
        if fields.get("connection") == "close":
            self.close()
        return reply

    async def hang_up(self, body: bytes, path: str, events: int) -> None:
        """Posts JSON and hangs up: after half the body (-1), at once (0), or behind some events."""
        await self._send(path, body if events >= 0 else body[: len(body) // 2], len(body))
        if events > 0:
            _, fields = await self._read_head()
            if "chunked" in fields.get("transfer-encoding", ""):
                async for _ in self._events():
                    events -= 1
                    if not events:
                        break
        self.close()

    async def _send(self, path: str, body: bytes, length: int) -> None:
        if self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(
                self._address.hostname, self._address.port, limit=_LONGEST_LINE
            )
        head = [
            f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json",
            f"Content-Length: {length}", "", "",
        ]  # fmt: skip
        self._writer.write("\r\n".join(head).encode() + body)
        await self._writer.drain()

    async def _read_head(self) -> tuple[int, dict[str, str]]:
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.partition(":") for line in lines[1:] if line)
        return int(lines[0].split()[1]), {name.lower(): value.strip().lower() for name, _, value in pairs}

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        """Objects of a stream of server-sent events, whole ones in each chunk."""
        while size := int(await self._reader.readline(), 16):
            chunk = await self._reader.readexactly(size + 2)
            for event in chunk[:-2].split(b"\n\n")[:-1]:
                if event != b"data: [DONE]":
                    yield json.loads(event.removeprefix(b"data: "))
        await self._reader.readline()

    def close(self) -> None:
        """Closes the connection, if one is open."""
        if self._reader is not None:
            self._writer.close()
            self._reader = None
