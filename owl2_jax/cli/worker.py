"""`python -m owl2_jax.cli.worker DESCRIPTOR`: `owl2`, for one command after another in one process.

`owl2 sweep --jobs` starts it, so that small runs share what each would spend half a minute on: the
start of JAX, compiled programs, read samples. A command comes through a socket, as a line of JSON
with its arguments, and the descriptor of its log. One that ends well is answered; after any other
the process ends as `owl2` would, so that no run meets what a failed one left behind.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Final

from owl2_jax.cli.main import main
from owl2_jax.cli.signals import Terminated, die_of, end, handle_signals, let_signals_end
from owl2_jax.core import kept
from owl2_jax.data.sources import bucket_files
from owl2_jax.sweeps.processes import DONE

_FAULT: Final = 1
_MOST: Final = 1 << 16  # bytes taken from the socket at a time


def run(descriptor: int) -> None:
    """Serves until the other side closes, then ends the process."""
    handle_signals()
    gc.set_threshold(50_000, 20, 50)  # as `owl2` does
    kept.keep()
    try:
        with socket.socket(fileno=descriptor) as line:
            code = _serve(line)
    except Terminated:
        die_of(signal.SIGTERM)
    let_signals_end()
    end(code)


def _serve(line: socket.socket) -> int:
    """Runs commands; returns the exit code of one that failed, or 0 at the end of them."""
    while (asked := _take(line)) is not None:
        arguments, log = asked
        _print_to(log)
        code = _call(arguments)
        _print_to(os.open(os.devnull, os.O_WRONLY))
        if code:
            return code
        bucket_files.let_go()
        gc.collect()
        line.sendall(DONE)
    return 0


def _take(line: socket.socket) -> tuple[list[str], int] | None:
    """(arguments, descriptor of the log) of the next command; None when there are no more."""
    text, logs = b"", []
    while not text.endswith(b"\n"):
        part, found, _, _ = socket.recv_fds(line, _MOST, 1)
        if not part:
            return None
        text, logs = text + part, [*logs, *found]
    return json.loads(text), logs[0]


def _print_to(descriptor: int) -> None:
    """What is printed from now on goes there."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


def _call(arguments: Sequence[str]) -> int:
    """The exit code of `owl2 ARGUMENTS`."""
    try:
        return main(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else _FAULT
    except Exception:  # a fault of ours, told in the log as `owl2` tells it
        traceback.print_exc()
        return _FAULT


if __name__ == "__main__":
    run(int(sys.argv[1]))
