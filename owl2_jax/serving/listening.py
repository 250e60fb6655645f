"""The address of a server; apart from it, so that a taken port is told before anything heavy is imported."""

from __future__ import annotations

import socket

from owl2_jax.core.errors import Owl2Error

_BACKLOG = 2048  # connections that wait to be accepted, as uvicorn has it


def listen(host: str, port: int) -> socket.socket:
    """A listening socket at an address, so that nobody else takes it; port 0 takes a free one.

    Whoever connects from now on waits until the server runs, and is not refused.

    Raises:
      Owl2Error: the address is not this machine's, or is taken, or is none.
    """
    if not 0 <= port <= 65535:
        raise Owl2Error(f"the port is {port}; expected 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        raise Owl2Error(
            f"cannot listen at {host} port {port}: {error}; choose another --host or --port"
        ) from error
    return sock


def url_of(sock: socket.socket) -> str:
    """The address of a listening socket, as a browser takes it."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
