"""Commands as processes of their own, which never outlive the sweep and never meet in one folder."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

from owl2_jax.core import locks
from owl2_jax.core.locks import Lock

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

    def run(self, arguments: Sequence[str], log: int, lock: Lock) -> int:
        """Runs `owl2 ARGUMENTS`; returns its exit code, negative for a signal.

        Args:
          log: descriptor of a file that takes all it prints.
          lock: the process keeps it as long as it lives, also when this one is killed.

        Raises:
          Owl2Error: the lock cannot be shared; the process is ended.
        """
        self._running = subprocess.Popen(
            [*_IN_FRONT, *PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,  # an interrupt of the terminal comes through `_stop`, once
        )
        try:
            lock.share(self._running.pid)
            if self.stopped is not None:  # the request came while the process was being made
                self._running.terminate()
            return self._running.wait()
        except BaseException:  # no process goes on without its lock
            self._running.terminate()
            self._running.wait()
            raise
        finally:
            self._running = None


@contextlib.contextmanager
def locked(path: Path, waits: Callable[[], None], stopped: Callable[[], bool]) -> Iterator[Lock | None]:
    """Holds a lock, or gives None when asked to stop while waiting.

    Args:
      waits: called once when somebody else holds the lock.
      stopped: whether to give up waiting.
    """
    told = False

    def wait(holder: object) -> bool:
        nonlocal told
        if not told:
            waits()
            told = True
        return not stopped()

    try:
        lock = locks.take(path, str(path.parent), wait)
    except locks.LockedError:
        yield None
        return
    try:
        yield lock
    finally:
        lock.release()
