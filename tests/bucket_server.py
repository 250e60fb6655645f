"""Google Cloud Storage for the tests: the emulator's own handlers, with what it lacks and with faults.

The emulator ignores `ifGenerationMatch`, on which a run's lock stands, moves no
object, cuts an object that ends in a carriage return, and answers one request after
the other. Here it does all of that right, and can be told to fail by `Bucket.fail`.
"""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http import server
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.server import RequestHandler, Router
from gcp_storage_emulator.storage import Storage

BUCKET = "bucket"


@dataclass
class Bucket:
    """The server's state.

    Attributes:
      fail: request (method, path) to what happens to it: None, a status, "reset", or "cut".
      delay: seconds added to every answer.
      requests: (method, path with query) of all requests so far.
      ranges: (path without query, first byte, last byte) of all requests so far that asked for a part.
    """

    storage: Any
    address: str = ""
    fail: Callable[[str, str], int | str | None] = lambda method, path: None
    delay: float = 0.0
    requests: list[tuple[str, str]] = field(default_factory=list)
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    lock: Any = field(default_factory=threading.RLock)

    @property
    def environment(self) -> dict[str, str]:
        """Leads gcsfs and TensorStore to the server."""
        return {
            "STORAGE_EMULATOR_HOST": self.address,
            "TENSORSTORE_GCS_HTTP_URL": self.address,
            "NO_GCE_CHECK": "true",
        }

    def names(self, prefix: str = "") -> list[str]:
        """Names of the objects."""
        kept = list(self.storage.objects.get(BUCKET, {}))  # at once: others write meanwhile
        return sorted(name for name in kept if name.startswith(prefix))

    def read(self, name: str) -> bytes:
        return self.storage.get_file(BUCKET, name)


class _Storage(Storage):
    """Objects in memory, and nothing but them.

    The emulator writes the descriptions of all objects, deleted ones too, as one JSON text
    after every request that changes one.
    """

    def __init__(self) -> None:
        super().__init__(use_memory_fs=True)

    def _write_config_to_file(self) -> None:
        """Nobody reads it: the objects end with this process."""


class _Handler(RequestHandler):
    """A request to the emulator, with its condition and its fault."""

    def __init__(self, bucket: Bucket, *args: Any) -> None:
        self._bucket = bucket
        super().__init__(bucket.storage, *args)

    def _answer(self, method: str) -> None:
        bucket = self._bucket
        bucket.requests.append((method, self.path))
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if first and last:
            bucket.ranges.append((self.path.partition("?")[0], int(first), int(last)))
        time.sleep(bucket.delay)
        fault = bucket.fail(method, self.path)
        if isinstance(fault, int):
            self._refuse(fault)
            return
        if fault == "reset":
            self.close_connection = True
            self.connection.close()
            return
        if fault == "cut":
            self.wfile = _Cut(self.wfile)
        with bucket.lock:
            if not self._holds(method):
                self._refuse(412)
            elif "/moveTo/o/" in self.path:
                self._move()
            else:
                self._keep_the_end()
                Router(self).handle(method)

    do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = lambda self: self._answer(self.command)

    def end_headers(self) -> None:
        """With the generation of an object's content, by which it is written on a condition."""
        if self.command == "GET" and "alt=media" in self.path:
            with suppress(NotFound):
                self.send_header("x-goog-generation", self._generation())
        super().end_headers()

    def _generation(self) -> str:
        """Of the object of this request. Raises `NotFound`."""
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        name = query["name"][0] if "name" in query else unquote(parts.path.partition("/o/")[2])
        return self._bucket.storage.get_file_obj(BUCKET, name)["generation"]

    def _keep_the_end(self) -> None:
        """Ends the content of an upload in both characters that the emulator takes for one line's end."""
        if "uploadType=multipart" not in self.path:
            return
        content, end, rest = self.rfile.read(int(self.headers["Content-Length"])).rpartition(b"\n--")
        body = content + b"\r" + end + rest
        self.headers.replace_header("Content-Length", str(len(body)))
        self.rfile = io.BytesIO(body)

    def _move(self) -> None:
        """Gives an object another name, as the store does in one step."""
        path = urlsplit(self.path).path.partition("/o/")[2]
        old, new = map(unquote, path.split("/moveTo/o/"))
        storage = self._bucket.storage
        try:
            found, content = storage.get_file_obj(BUCKET, old), storage.get_file(BUCKET, old)
        except NotFound:
            self._refuse(404)
            return
        moved = {**found, "name": new, "generation": str(time.time_ns())}
        storage.create_file(BUCKET, new, content, moved)
        storage.delete_file(BUCKET, old)
        self._send(200, moved)

    def _refuse(self, status: int) -> None:
        self._send(status, {"error": {"code": status, "message": f"told to answer {status}"}})

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _holds(self, method: str) -> bool:
        """Whether the condition of a write or a deletion holds."""
        query = parse_qs(urlsplit(self.path).query)
        if method not in ("POST", "DELETE") or "ifGenerationMatch" not in query:
            return True
        try:
            now = self._generation()
        except NotFound:
            now = "0"
        return now == query["ifGenerationMatch"][0]


class _Cut:
    """A file that takes the first half of every large piece."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        return self._file.write(data if len(data) < 2 else data[: len(data) // 2])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Server(server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


@contextmanager
def started() -> Iterator[Bucket]:
    """A server on a free port, with the bucket `BUCKET`."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)  # a missing object is no error
    bucket = Bucket(_Storage())
    buckets.create_bucket(BUCKET, bucket.storage)
    listening = _Server(("127.0.0.1", 0), partial(_Handler, bucket))
    bucket.address = f"http://127.0.0.1:{listening.server_address[1]}"
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield bucket
    finally:
        listening.shutdown()
        listening.server_close()
