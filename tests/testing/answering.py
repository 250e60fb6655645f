"""A small server of completions without a model, which answers by what is asked, and can be made to fail."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

READINGS = {
    "owl2_running": 0, "owl2_waiting": 0, "owl2_cache_pages": 8, "owl2_cache_pages_free": 8,
    "owl2_programs": 12, "owl2_engine_failures_total": 0, "owl2_generated_tokens_total": 0,
    "owl2_passes_total": 0,
}  # fmt: skip


def _is_bad(call: dict) -> bool:
    """Whether it is one of the calls that `mixed_requests` means to be refused."""
    return (
        call.get("temperature") == 7
        or call.get("max_tokens") == "many"
        or call.get("messages") == []
        or ("top_logprobs" in call and not call.get("logprobs"))
        or call.get("structured_outputs") == {"regex": "("}
        or call.get("logit_bias") == {"99999999": 1}
        or "tempereature" in call
    )


class Answering(BaseHTTPRequestHandler):
    """Answers; `spoil` may change what it says, `readings` is what its metrics tell."""

    protocol_version = "HTTP/1.1"
    spoil: Callable[[str, int], str]
    readings: dict[str, float]
    status: int
    served = 0

    def do_GET(self) -> None:
        text = "# HELP\n" + "".join(f"{name} {value}\n" for name, value in self.readings.items())
        self._send(200, text.encode())

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if len(data) < int(self.headers["Content-Length"]):
            self.close_connection = True
            return
        type(self).served += 1
        call = json.loads(data)
        if _is_bad(call):
            self._send(400, json.dumps({"error": {"message": "too hot"}}).encode())
            return
        if self.status != 200:
            self._send(self.status, json.dumps({"error": {"message": "no"}}).encode())
            return
        text = self.spoil(hashlib.sha256(data).hexdigest()[:12], self.served)
        choices = [{"index": number, "text": f"{text}{number}"} for number in range(call.get("n", 1))]
        if call.get("stream"):
            self._stream(choices)
        else:
            self._send(200, json.dumps({"choices": choices, "usage": {"completion_tokens": 3}}).encode())

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, choices: list[dict]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        parts = [({**one, "text": one["text"][:4]}, {**one, "text": one["text"][4:]}) for one in choices]
        pieces = [{"choices": [part]} for both in parts for part in both]
        with contextlib.suppress(OSError):
            for piece in [*map(json.dumps, pieces), "[DONE]"]:
                data = f"data: {piece}\n\n".encode()
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def answering(
    spoil: Callable[[str, int], str] = lambda text, _: text, status: int = 200, **readings: float
) -> Iterator[str]:
    """The address of such a server while it runs; `status` is that of every answer."""
    names = {"spoil": staticmethod(spoil), "status": status, "readings": READINGS | readings}
    with ThreadingHTTPServer(("127.0.0.1", 0), type("One", (Answering,), names)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
