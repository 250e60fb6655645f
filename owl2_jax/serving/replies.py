"""Sends answers to clients that may go away at any time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import Response
from starlette.types import Receive, Scope, Send

from owl2_jax.inference.request import Result
from owl2_jax.serving.completions import Completion
from owl2_jax.serving.errors import ApiError
from owl2_jax.serving.runner import Ticket

_SSE_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # proxies: pass it on piece by piece
}


async def whole_answer(ticket: Ticket, receive: Receive) -> Result | None:
    """Waits for an answer; None when the client has gone, whose place is then free.

    Raises:
      ApiError: the engine refused the request or failed.
    """
    async with _watched(ticket, receive):
        while (event := await ticket.next()) is not None:
            if event.result is not None:
                return event.result
    return None


class AnswerStream(Response):
    """An answer as server-sent events, each sent as soon as the engine has it.

    A client that reads slowly keeps nobody waiting: pieces are kept for it, and
    the engine's slot is free when the answer is finished.
    """

    def __init__(self, ticket: Ticket, completion: Completion):
        super().__init__(None, headers=_SSE_HEADERS, media_type="text/event-stream")
        del self.headers["content-length"]
        self._ticket = ticket
        self._completion = completion

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with _watched(self._ticket, receive):
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            async for piece in self._pieces():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def _pieces(self) -> AsyncIterator[bytes]:
        yield self._completion.begin()
        try:
            while (event := await self._ticket.next()) is not None:
                if event.text or event.logprobs:
                    yield self._completion.piece(event)
                if event.result is not None:
                    for piece in self._completion.end(event.result):
                        yield piece
                    return
        except ApiError as error:
            yield error.event()


@contextlib.asynccontextmanager
async def _watched(ticket: Ticket, receive: Receive) -> AsyncIterator[None]:
    """Abandons a ticket when its client goes away, or when the answer is left for any other reason."""
    watcher = asyncio.create_task(_abandon_when_gone(ticket, receive))
    try:
        yield
    finally:
        watcher.cancel()
        ticket.abandon()


async def _abandon_when_gone(ticket: Ticket, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    ticket.abandon()
