"""Runs the application: one process, one loop, a graceful end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from socket import socket
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from owl2_jax.serving.api import create_app
from owl2_jax.serving.service import Service

_LAST_BYTES_SECONDS = 5  # for what clients have not read when the last answer is finished


class Server(uvicorn.Server):
    """Serves one `Service`.

    The first signal to stop lets running answers finish, and new requests get
    503 meanwhile; the second one, or the end of the grace time, ends them too.

    Attributes:
      failed: the engine died, and the server stopped for that reason.
    """

    def __init__(self, service: Service, on_ready: Callable[[], None] = lambda: None):
        """`on_ready` is called once, when requests are answered without delay."""
        self.service = service
        self.failed = False
        self._on_ready: Callable[[], None] | None = on_ready
        self._drain: asyncio.Task[None] | None = None
        limits = service.config.limits
        super().__init__(_config(create_app(service), limits.head_seconds))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called for SIGINT and SIGTERM."""
        self.stop()

    def stop(self) -> None:
        """Ends gracefully; called again, at once."""
        if self.service.runner.draining:
            self.should_exit = True
        self.service.runner.drain()

    async def on_tick(self, counter: int) -> bool:
        """Looks after the engine ten times a second; True ends the server."""
        runner = self.service.runner
        if runner.draining and self._drain is None:
            self._drain = asyncio.create_task(self._finish())
        if runner.ready and self._on_ready is not None:
            self._on_ready()
            self._on_ready = None
        if not runner.live and not self.should_exit:
            self.failed = self.should_exit = True
        return await super().on_tick(counter)

    async def _finish(self) -> None:
        await self.service.runner.wait_idle(self.service.config.grace_seconds)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Ends what still runs, then the connections."""
        self.service.runner.stop()  # what still runs gets its error now, not when the wait is over
        await super().shutdown(sockets)


def _config(app: FastAPI, head_seconds: float) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_impatient(head_seconds),
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_LAST_BYTES_SECONDS,
    )


def _impatient(head_seconds: float) -> type[H11Protocol]:
    """The protocol of a connection that is closed when the head of a request takes too long.

    uvicorn itself would wait for ever, and connections are few.
    """

    class Impatient(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._waiting = self.loop.call_later(head_seconds, self._give_up)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._waiting.cancel()
            elif self._waiting.cancelled():  # a further request has begun
                self._waiting = self.loop.call_later(head_seconds, self._give_up)

        def connection_lost(self, exc: Exception | None) -> None:
            self._waiting.cancel()
            super().connection_lost(exc)

        def _give_up(self) -> None:
            if self.conn.their_state is h11.IDLE:
                self.transport.close()

    return Impatient
