"""Sends answers to clients that may go away at any time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import Response
from starlette.types import Receive, Scope, Send

from owl2_jax.inference.request import Result
from owl2_jax.serving.choices import Choices
from owl2_jax.serving.completions import Writer
from owl2_jax.serving.errors import ApiError

_SSE_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # proxies: pass it on piece by piece
}


async def whole_answers(choices: Choices, receive: Receive) -> list[Result] | None:
    """Waits for all answers; None when the client has gone, whose places are then free.

    Raises:
      ApiError: the engine refused a request or failed, or an answer could not go on.
    """
    results: dict[int, Result] = {}
    async with _watched(choices, receive):
        while (found := await choices.next()) is not None:
            index, event = found
            if event.result is not None:
                results[index] = _sound(event.result)
            if len(results) == len(choices):
                return [results[index] for index in range(len(choices))]
    return None


class AnswerStream(Response):
    """Answers as server-sent events, each sent as soon as the engine has it.

    A client that reads slowly keeps nobody waiting: pieces are kept for it, and
    the engine's places are free when the answers are finished.
    """

    def __init__(self, choices: Choices, writer: Writer):
        super().__init__(None, headers=_SSE_HEADERS, media_type="text/event-stream")
        del self.headers["content-length"]
        self._choices = choices
        self._writer = writer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events as they come, until the client leaves."""
        async with _watched(self._choices, receive):
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            whole = False
            async for piece, whole in self._pieces():
                await send({"type": "http.response.body", "body": piece, "more_body": not whole})
            if not whole:  # the client has gone
                await send({"type": "http.response.body", "body": b""})

    async def _pieces(self) -> AsyncIterator[tuple[bytes, bool]]:
        """What to send, and whether it is the last; each costs a call of the system, so they are few.

        The first events go with the first text: that the request was taken says the head.
        """
        begin, known, going = b"".join(self._writer.begin()), b"", len(self._choices)
        try:
            while going and (found := await self._choices.next()) is not None:
                index, event = found
                if event.text or event.logprobs:
                    known += self._writer.piece(index, event)
                if event.result is not None:
                    known += self._writer.end(index, _sound(event.result))
                    going -= 1
                if not going:
                    known += b"".join(self._writer.close())
                if known:
                    yield begin + known, not going
                    begin = known = b""
        except ApiError as error:
            yield begin + known + error.event(), True


def _sound(result: Result) -> Result:
    """The same answer. Raises `ApiError` for one that could not go on."""
    if result.error is not None:
        raise ApiError(f"the answer could not go on: {result.error}", code="answer_failed")
    return result


@contextlib.asynccontextmanager
async def _watched(choices: Choices, receive: Receive) -> AsyncIterator[None]:
    """Abandons answers when their client goes away, or when they are left for any other reason."""
    watcher = asyncio.create_task(_abandon_when_gone(choices, receive))
    try:
        yield
    finally:
        watcher.cancel()
        choices.abandon()


async def _abandon_when_gone(choices: Choices, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    choices.abandon()
