"""Fetches an image from the web without being sent to where the server alone can reach.

Every address that a name stands for is checked, the connection goes to the
very address that was checked, and each redirect starts over. So neither a
name that points inside, nor one that changes between two look-ups, nor a
redirect leads to a private network or to this machine.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from owl2_jax.serving.errors import ApiError

# Of a path and query; blanks and letters beyond ASCII, which people copy too, are encoded.
_AS_IT_IS = "%/:?#[]@!$&'()*+,;=~"
MAX_REDIRECTS = 3
_CHUNK = 64 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
# Addresses of IPv4 written as IPv6 (RFC 6052); a gateway may lead them anywhere.
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))

Resolve = Callable[..., list[tuple[Any, ...]]]


def is_public(address: str) -> bool:
    """Whether an address belongs to the internet at large, in every way it can be read."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if inner:
            return is_public(str(inner))
        if any(ip in network for network in _NAT64) or ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


@dataclass(frozen=True)
class Fetcher:
    """Fetches images.

    Attributes:
      max_bytes: of one image.
      seconds: for one image, redirects included.
      ports: that may be asked.
      allowed: says whether an address may be asked.
      resolve: the look-up of names, as `socket.getaddrinfo`.
    """

    max_bytes: int
    seconds: float
    ports: tuple[int, ...] = (80, 443)
    allowed: Callable[[str], bool] = is_public
    resolve: Resolve = socket.getaddrinfo

    def fetch(self, name: str, url: str) -> bytes:
        """The content at an address; `name` is what errors call it.

        Raises:
          ApiError: an address that is not allowed, or cannot be had within the
            limits. It tells no more than a client may know.
        """
        deadline = time.monotonic() + self.seconds
        for _ in range(MAX_REDIRECTS + 1):
            parts = self._check_url(name, url)
            address = self._look_up(name, parts)
            answer = self._get(name, parts, address, deadline)
            if isinstance(answer, bytes):
                return answer
            url = urljoin(url, answer)
        raise _refused(f"{name} was redirected more than {MAX_REDIRECTS} times")

    def _check_url(self, name: str, url: str) -> SplitResult:
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise _refused(f"{name} has no valid address") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise _refused(f"{name} is at {url[:60]!r}; expected an http: or https: address, or a data: URL")
        if parts.username is not None or parts.password is not None:
            raise _refused(f"the address of {name} holds a user name; leave it out")
        if port not in self.ports:
            raise _refused(f"{name} is at port {port}; expected {' or '.join(map(str, self.ports))}")
        return parts

    def _look_up(self, name: str, parts: SplitResult) -> str:
        """One address of the host, when all of them are public."""
        try:
            found = self.resolve(parts.hostname, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise _refused(f"the host of {name}, {parts.hostname!r}, was not found") from None
        addresses = [entry[4][0] for entry in found]
        if not addresses or not all(map(self.allowed, addresses)):
            raise _refused(f"the host of {name}, {parts.hostname!r}, is not a public address")
        return addresses[0]

    def _get(self, name: str, parts: SplitResult, address: str, deadline: float) -> bytes | str:
        """The content, or where it is said to be."""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        connection = _Connection(parts.hostname or "", port, address, parts.scheme == "https", deadline)
        target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_AS_IT_IS)
        try:
            connection.request("GET", target, headers={"User-Agent": "owl2_jax", "Accept": "image/*"})
            response = connection.getresponse()
            if response.status in _REDIRECTS and response.headers.get("location"):
                return response.headers["location"]
            if response.status != http.client.OK:
                raise _refused(f"the host of {name} answered with status {response.status}")
            return self._read(name, connection, response)
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = connection.late or isinstance(error, TimeoutError)
            raise _refused(f"{name} could not be fetched{' in time' if late else ''}") from None
        finally:
            connection.close()

    def _read(self, name: str, connection: _Connection, response: http.client.HTTPResponse) -> bytes:
        data = bytearray()
        while chunk := response.read1(_CHUNK):
            data += chunk
            if len(data) > self.max_bytes:
                raise _refused(
                    f"{name} is larger than {self.max_bytes} bytes, this server's limit for the web"
                )
        if connection.late:
            raise TimeoutError
        return bytes(data)


class _Connection(http.client.HTTPConnection):
    """A connection to an address that was checked, under the name it was found by.

    It is cut at the deadline, whatever it is doing: a host that sends a byte now
    and then would never run into the time limit of a socket.
    """

    def __init__(self, host: str, port: int, address: str, tls: bool, deadline: float):
        left = max(deadline - time.monotonic(), 0.01)
        super().__init__(host, port, timeout=left)
        self.late = False
        self._address = address
        self._tls = ssl.create_default_context() if tls else None
        self._raw: socket.socket | None = None
        self._timer = threading.Timer(left, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        self._raw = self.sock.dup()  # TLS takes the first one away
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)

    def close(self) -> None:
        self._timer.cancel()
        super().close()
        if self._raw is not None:
            self._raw.close()

    def _cut(self) -> None:
        self.late = True
        if self._raw is not None:
            with contextlib.suppress(OSError):  # closed meanwhile
                self._raw.shutdown(socket.SHUT_RDWR)


def _refused(message: str) -> ApiError:
    return ApiError(message, code="invalid_image_url")
