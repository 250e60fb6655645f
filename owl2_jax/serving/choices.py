"""Several answers to one call: each has a place of its own, and their events come as one stream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from owl2_jax.inference.request import Event, Request
from owl2_jax.serving.errors import ApiError
from owl2_jax.serving.runner import EngineRunner, Ticket


class Choices:
    """The places of a call. Of use in the loop alone."""

    def __init__(self, tickets: Sequence[Ticket]):
        self._tickets = tickets
        self._events: asyncio.Queue[tuple[int, Event] | ApiError | None] = asyncio.Queue()
        self._readers: list[asyncio.Task[None]] = []

    @classmethod
    def reserve(cls, runner: EngineRunner, count: int) -> Choices:
        """Takes `count` places, or none.

        Raises:
          ApiError: as `EngineRunner.reserve`.
        """
        tickets: list[Ticket] = []
        try:
            for _ in range(count):
                tickets.append(runner.reserve())
        except ApiError:
            for ticket in tickets:
                ticket.abandon()
            raise
        return cls(tickets)

    def __len__(self) -> int:
        return len(self._tickets)

    def submit(self, requests: Sequence[Request]) -> None:
        """Sends the requests, one for each place, into the engine; what they share runs once."""
        for index, (ticket, request) in enumerate(zip(self._tickets, requests, strict=True)):
            ticket.submit(request)
            self._readers.append(asyncio.create_task(self._read(index, ticket)))

    async def next(self) -> tuple[int, Event] | None:
        """The next piece of an answer and its number; None when the client has gone.

        Raises:
          ApiError: a request was refused, or the engine failed.
        """
        event = await self._events.get()
        if isinstance(event, ApiError):
            raise event
        return event

    def abandon(self) -> None:
        """Gives the places back; answers that still run are stopped. May be called again."""
        for ticket in self._tickets:
            ticket.abandon()
        self._events.put_nowait(None)

    async def _read(self, index: int, ticket: Ticket) -> None:
        try:
            while (event := await ticket.next()) is not None:
                self._events.put_nowait((index, event))
                if event.result is not None:
                    return
        except ApiError as error:
            self._events.put_nowait(error)
