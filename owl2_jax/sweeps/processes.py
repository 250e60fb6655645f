"""Processes for commands, one each or one for many: none outlives the sweep, no two meet in one folder."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Protocol

from owl2_jax.core import locks
from owl2_jax.core.locks import Lock

PROGRAM = (sys.executable, "-m", "owl2_jax.cli.main")  # `owl2`, of this environment
WORKER = (sys.executable, "-m", "owl2_jax.cli.worker")  # `owl2`, for one command after another
DONE: Final = b"0"  # a worker's answer to a command that ended well
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
# A killed sweep takes its command along: Linux then sends it SIGTERM (PR_SET_PDEATHSIG, which outlives
# exec), and training saves and ends. In a process in front of the command, as this one has threads and
# must not run Python between fork and exec.
_ON_LINUX: Final = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"
)
_IN_FRONT: Final = (sys.executable, "-ISc", _ON_LINUX) if sys.platform.startswith("linux") else ()


class Runner(Protocol):
    """What runs commands, one after the other."""

    @property
    def stopped(self) -> int | None:
        """The signal that asked to stop; None when nothing did."""

    def run(self, arguments: Sequence[str], log: int, lock: Lock) -> int:
        """Runs `owl2 ARGUMENTS`; returns its exit code, negative for a signal.

        Args:
          log: descriptor of a file that takes all it prints.
          lock: the process keeps it as long as it lives, also when this one is killed.

        Raises:
          Owl2Error: the lock cannot be shared; the process is ended.
        """


class Children:
    """A process per command; a request to stop goes on to all that run.

    Attributes:
      stopped: the signal that asked to stop; None when nothing did.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.stopped: int | None = None
        self._environment = environment
        self._running: set[subprocess.Popen[bytes]] = set()
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
        for process in list(self._running):
            process.terminate()

    def run(self, arguments: Sequence[str], log: int, lock: Lock) -> int:
        """See `Runner`."""
        process = self.start([*PROGRAM, *arguments], output=log)
        try:
            lock.share(process.pid)
            return process.wait()
        except BaseException:  # no process goes on without its lock
            process.terminate()
            raise
        finally:
            self.end(process)

    def start(
        self, command: Sequence[str], output: int, given: Sequence[int] = (), **variables: str
    ) -> subprocess.Popen[bytes]:
        """A process that is told when this one is asked to stop, until `end`.

        Args:
          output: descriptor that takes all it prints.
          given: descriptors that it inherits.
          variables: of its environment, where that does not have them.
        """
        process = subprocess.Popen(
            [*_IN_FRONT, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**variables, **self._environment},
            pass_fds=given,
            start_new_session=True,  # an interrupt of the terminal comes through `_stop`, once
        )
        self._running.add(process)
        if self.stopped is not None:  # the request came while the process was being made
            process.terminate()
        return process

    def end(self, process: subprocess.Popen[bytes]) -> int:
        """Waits for a process; returns its exit code."""
        code = process.wait()
        self._running.discard(process)
        return code


class Worker:
    """One process for one command after another (`cli.worker`); a new one after a command that failed.

    Args:
      threads: that its programs compute with on a CPU.
    """

    def __init__(self, children: Children, threads: int) -> None:
        self._children, self._threads = children, threads
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    @property
    def stopped(self) -> int | None:
        """See `Runner`."""
        return self._children.stopped

    def run(self, arguments: Sequence[str], log: int, lock: Lock) -> int:
        """See `Runner`."""
        try:
            process, line = self._started(log)
            lock.share(process.pid)
            socket.send_fds(line, [json.dumps(arguments).encode() + b"\n"], [log])
            if line.recv(1) == DONE:
                return 0
        except ConnectionError:  # it is gone
            pass
        except BaseException:  # no process goes on without its lock
            if self._process is not None:
                self._process.terminate()
            self.close()
            raise
        return self.close()

    def close(self) -> int:
        """Lets the process end; returns its exit code, 0 where there is none."""
        process, line = self._process, self._line
        self._process = self._line = None
        if line is not None:
            line.close()
        return 0 if process is None else self._children.end(process)

    def _started(self, log: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """The process; a new one that fails before it takes a command tells why in this log."""
        if self._process is None or self._line is None:
            self._line, theirs = socket.socketpair()
            with theirs:
                self._process = self._children.start(
                    [*WORKER, str(theirs.fileno())],
                    output=log,
                    given=[theirs.fileno()],
                    NPROC=str(self._threads),  # XLA's name for the size of its pool of threads
                )
        return self._process, self._line


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
