"""Images from the web: only from public addresses, checked at every step, within size and time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from owl2_jax.serving.errors import ApiError
from owl2_jax.serving.remote import Fetcher, is_public
from owl2_jax.testing import tiny

IMAGE = tiny.image_file(1)
TEST_ADDRESS = "127.0.0.1"


class Handler(BaseHTTPRequestHandler):
    """A host on the web, with every trick it may play."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Host"]))
        name, _, rest = self.path.lstrip("/").partition("?")
        getattr(self, f"send_{name}")(rest)

    def send_image(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(IMAGE)

    def send_redirect(self, to: str) -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.end_headers()

    def send_loop(self, _: str) -> None:
        self.send_redirect("/loop")

    def send_missing(self, _: str) -> None:
        self.send_response(404)
        self.end_headers()

    def send_endless(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(bytes(10_000))

    def send_drip(self, _: str) -> None:
        """A byte now and then, so that no wait for the next one is ever long."""
        self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
        while True:
            self.wfile.write(b"x")
            time.sleep(0.05)

    def send_cut(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"only this")
        time.sleep(1)

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client had enough
            super().handle()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer((TEST_ADDRESS, 0), Handler)
    server.daemon_threads = True
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def resolve(name: str, *_: object, **__: object) -> list:
    """Two names of our own; anything else as it is written."""
    names = {"images.test": [TEST_ADDRESS], "mixed.test": [TEST_ADDRESS, "10.0.0.1"]}
    if name == "nowhere.test":
        raise socket.gaierror
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in names.get(name, [name])]


@pytest.fixture
def fetcher(host) -> Fetcher:
    """The test host counts as public, everything else as it is."""
    return Fetcher(
        max_bytes=100_000,
        seconds=0.5,
        ports=(host.server_port,),
        allowed=lambda address: address == TEST_ADDRESS or is_public(address),
        resolve=resolve,
    )


def test_image_is_fetched_under_its_name(fetcher, host):
    host.asked.clear()
    assert fetcher.fetch("image 1", f"http://images.test:{host.server_port}/image") == IMAGE
    assert host.asked == [("/image", f"images.test:{host.server_port}")]


def test_redirects_are_followed_a_few_times(fetcher, host):
    base = f"http://images.test:{host.server_port}"
    assert fetcher.fetch("image 1", f"{base}/redirect?/redirect?/image") == IMAGE
    with pytest.raises(ApiError, match="more than 3 times"):
        fetcher.fetch("image 1", f"{base}/loop")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("http://10.0.0.1:{port}/image", "not a public address"),
        ("http://169.254.169.254:{port}/latest/meta-data", "not a public address"),
        ("http://mixed.test:{port}/image", "not a public address"),
        ("http://[::1]:{port}/image", "not a public address"),
        ("http://nowhere.test:{port}/image", "was not found"),
        ("http://images.test:22/image", "port 22"),
        ("http://user:secret@images.test:{port}/image", "user name"),
        ("http://images.test:port/", "no valid address"),
        ("file:///etc/passwd", "expected an http: or https: address"),
        ("ftp://images.test/x", "expected an http: or https: address"),
        ("gopher://images.test:{port}/_x", "expected an http: or https: address"),
    ],
)
def test_only_public_addresses_are_asked_also_after_a_redirect(fetcher, host, target, words):
    target = target.format(port=host.server_port)
    with pytest.raises(ApiError, match=words):
        fetcher.fetch("image 1", target)
    host.asked.clear()
    with pytest.raises(ApiError, match=words):
        fetcher.fetch("image 1", f"http://images.test:{host.server_port}/redirect?{target}")
    assert [path.partition("?")[0] for path, _ in host.asked] == ["/redirect"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing", "status 404"),
        ("endless", "larger than .* bytes, this server's limit"),
        ("drip", "in time"),
        ("cut", "in time"),
    ],
)
def test_size_and_time_are_limited(fetcher, host, path, words):
    began = time.perf_counter()
    with pytest.raises(ApiError, match=words):
        fetcher.fetch("image 1", f"http://images.test:{host.server_port}/{path}")
    assert time.perf_counter() - began < 5


def test_a_path_with_blanks_and_letters_of_any_script_is_asked_for(fetcher, host):
    url = f"http://images.test:{host.server_port}/image?näme=a b%20c&d=1"
    assert fetcher.fetch("image 1", url) == IMAGE
    assert host.asked[-1][0] == "/image?n%C3%A4me=a%20b%20c&d=1"


def test_https_is_checked_against_the_name(fetcher, host):
    with pytest.raises(ApiError, match="could not be fetched"):  # the test host speaks no TLS
        fetcher.fetch("image 1", f"https://images.test:{host.server_port}/image")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "2002:7f00:1::", "2002:c0a8:101::1",
        "64:ff9b::7f00:1", "64:ff9b:1::1", "2001:0:102:304::807f:fffe",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_addresses_that_are_public(address):
    assert is_public(address)
