"""Commands as processes of their own, which never outlive the sweep and never meet in one folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, TextIO

PROGRAM = (sys.executable, "-m", "owl2_jax.cli.main")  # `owl2`, of this environment
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
# A killed sweep takes its command along: Linux then sends it SIGTERM (PR_SET_PDEATHSIG, which outlives
# exec), and training saves and ends. In a process in front of the command, as this one has threads and
# must not run Python between fork and exec.
_ON_LINUX: Final = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"
)
_IN_FRONT: Final = (sys.executable, "-ISc", _ON_LINUX) if sys.platform.startswith("linux") else ()


class Children:
    """Runs one command after the other; a request to stop goes on to the one that runs.

    Attributes:
      stopped: the signal that asked to stop; None when nothing did.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.stopped: int | None = None
        self._environment = environment
        self._running: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Children:
        self._before = {number: signal.signal(number, self._stop) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = number
        if self._running is not None:
            self._running.terminate()

    def run(self, arguments: Sequence[str], log: TextIO, lock: int) -> int:
        """Runs `owl2 ARGUMENTS`; returns its exit code, negative for a signal.

        Args:
          log: takes all that it prints.
          lock: descriptor of a lock, which the process holds as long as it lives.
        """
        self._running = subprocess.Popen(
            [*_IN_FRONT, *PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self._environment,
            pass_fds=(lock,),
            start_new_session=True,  # an interrupt of the terminal comes through `_stop`, once
        )
        if self.stopped is not None:  # the request came while the process was being made
            self._running.terminate()
        try:
            return self._running.wait()
        finally:
            self._running = None


@contextlib.contextmanager
def locked(path: Path, waits: Callable[[], None], stopped: Callable[[], bool]) -> Iterator[int | None]:
    """Holds a lock file; gives its descriptor, or None when asked to stop while waiting.

    Args:
      waits: called once when somebody else holds the lock.
      stopped: whether to give up waiting.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        told = False
        while not _take(descriptor):
            if not told:
                waits()
                told = True
            if stopped():
                yield None
                return
            time.sleep(0.1)
        yield descriptor
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
