"""Amazon's store for the tests: the emulator moto in this process, behind a proxy with faults."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import server
from typing import Any

BUCKET = "bucket"
_OF_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server")


@dataclass
class Store:
    """The server's state.

    Attributes:
      fail: request (method, path) to what happens to it: None, a status, "reset", or "cut".
      delay: seconds added to every answer.
    """

    behind: str
    address: str = ""
    fail: Callable[[str, str], int | str | None] = lambda method, path: None
    delay: float = 0.0

    @property
    def environment(self) -> dict[str, str]:
        """Leads s3fs and TensorStore to the server."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


class _Proxy(server.BaseHTTPRequestHandler):
    """A request to the emulator, with its fault."""

    protocol_version = "HTTP/1.1"

    def __init__(self, store: Store, *args: Any) -> None:
        self._store = store
        super().__init__(*args)

    def _answer(self) -> None:
        time.sleep(self._store.delay)
        fault = self._store.fail(self.command, self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            content = b"".join(iter(self._chunk, b""))
        if fault == "reset":
            self.close_connection = True
            self.connection.close()
        elif isinstance(fault, int):
            code = {403: "AccessDenied", 429: "TooManyRequests", 503: "SlowDown"}.get(fault, "InternalError")
            body = f"<Error><Code>{code}</Code><Message>told to answer {fault}</Message></Error>".encode()
            self._send(fault, [("Content-Type", "application/xml")], body, len(body))
        else:
            self._forward(content, fault == "cut")

    do_GET = do_POST = do_DELETE = do_PUT = do_HEAD = _answer

    def _chunk(self) -> bytes:
        data = self.rfile.read(int(self.rfile.readline().partition(b";")[0], 16))
        self.rfile.readline()
        return data

    def _forward(self, content: bytes, cut: bool) -> None:
        connection = http.client.HTTPConnection(self._store.behind)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _OF_CONNECTION}
        connection.request(self.command, self.path, content, headers)
        answer = connection.getresponse()
        body = answer.read()
        length = int(answer.headers.get("Content-Length", len(body)))
        connection.close()
        kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in _OF_CONNECTION]
        self._send(answer.status, kept, body[: len(body) // 2] if cut else body, length)
        self.close_connection = self.close_connection or cut

    def _send(self, status: int, headers: list[tuple[str, str]], body: bytes, length: int) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")

    def log_message(self, *args: Any) -> None:
        """A request is no news."""


class _Server(server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


@contextmanager
def started() -> Iterator[Store]:
    """A server on a free port, with the bucket `BUCKET`."""
    from moto.server import ThreadedMotoServer

    emulator = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    emulator.start()
    host, port = emulator.get_host_and_port()
    store = Store(f"{host}:{port}")
    proxy = _Server(("127.0.0.1", 0), partial(_Proxy, store))
    store.address = f"http://127.0.0.1:{proxy.server_address[1]}"
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        urllib.request.urlopen(urllib.request.Request(f"{store.address}/{BUCKET}", method="PUT")).close()
        yield store
    finally:
        proxy.shutdown()
        proxy.server_close()
        emulator.stop()
