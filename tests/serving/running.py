"""A real server in a thread, on a free port of the loopback address."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai

from owl2_jax.inference.engine import EngineConfig
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.serving.listening import listen, url_of
from owl2_jax.serving.server import Server
from owl2_jax.serving.service import Service
from owl2_jax.serving.settings import Limits, ServeConfig

# One decode step at a time: an answer takes long enough to be interrupted.
SMALL_ENGINE = EngineConfig(sequences=4, decode_steps=1)


@dataclass
class Running:
    """A server that runs.

    Attributes:
      url: where it is.
      service: what it serves.
      server: the server itself.
    """

    url: str
    service: Service
    server: Server

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, **options: Any) -> openai.OpenAI:
        options = {"api_key": "none", "max_retries": 0, "timeout": 120} | options
        return openai.OpenAI(base_url=f"{self.url}/v1", **options)

    def post(self, body: Any, **options: Any) -> httpx.Response:
        """Posts a chat completion as raw JSON."""
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=120, **options)

    def wait(self, condition: Any, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.005)

    def idle(self) -> bool:
        return self.service.runner.running == 0


@contextlib.contextmanager
def serve(
    model: LoadedModel, engine: EngineConfig = SMALL_ENGINE, compile_first: bool = False, **settings: Any
) -> Iterator[Running]:
    """Serves a model; `settings` are those of `ServeConfig` and `Limits`."""
    limits = {name: settings.pop(name) for name in list(settings) if name in Limits.__dataclass_fields__}
    service = Service(
        model, ServeConfig(**settings, limits=Limits(**limits)), engine, compile_first=compile_first
    )
    sock = listen("127.0.0.1", 0)
    server = Server(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    running = Running(url_of(sock), service, server)
    try:
        running.wait(lambda: service.runner.ready, 300)
        yield running
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
