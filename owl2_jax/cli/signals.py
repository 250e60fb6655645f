"""Ctrl-C and SIGTERM end a command where it can clean up, and print nothing of Python's.

Python raises the exception of a signal wherever the main thread just is. Inside
of a callback that cannot raise (a weak reference's, the garbage collector's,
`__del__`) it is printed and lost, and inside of the import of a compiled module it
may abort the process. There the signal is sent again a moment later, until it
meets a place that can raise; an import that takes longer than `_MOST_SECONDS`
(one that hangs, or whose module is the program) is interrupted all the same.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Final, NoReturn

_AGAIN_SECONDS: Final = 0.02
_MOST_SECONDS: Final = 10.0  # that a signal waits for an import
_waits_since: dict[int, float] = {}  # {signal: when it first met an import}
_kept: list[BaseException] = []


class Terminated(BaseException):
    """SIGTERM came; raised in the main thread, so that locks are released and half-written output removed."""


def handle_signals() -> None:
    """For a process that is one command: both signals raise, and where they cannot they wait."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _receive)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _receive)
    print_other = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        kind = unraisable.exc_type
        if issubclass(kind, KeyboardInterrupt):
            _send_again(signal.SIGINT)
        elif issubclass(kind, Terminated):
            _send_again(signal.SIGTERM)
        else:
            print_other(unraisable)

    sys.unraisablehook = hook


def keep(interrupt: BaseException) -> None:
    """Keeps what the frames of an interrupted command hold until the process ends.

    A thread of JAX may go on with a program that they were compiling; freed under it, it would crash.
    """
    _kept[:] = [interrupt]


def die_of(number: int) -> NoReturn:
    """Ends this process as the signal does whose exception has been dealt with."""
    signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    os.kill(os.getpid(), number)
    raise SystemExit(128 + number)


def end(code: int) -> NoReturn:
    """Ends this process, with everything written, whatever the threads of JAX are doing.

    A program that JAX compiles is compiled in a thread that no interrupt reaches.
    It would meet freed memory while the interpreter takes itself apart, so that is
    left out after a failure. Several processes end in order, as they wait for each other.
    """
    jax = sys.modules.get("jax")
    if code == 0 or jax is None or jax.distributed.is_initialized():
        sys.exit(code)
    for child in multiprocessing.active_children():
        child.terminate()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more, or it is closed
            stream.flush()
    os._exit(code)


def let_signals_end() -> None:
    """The command is done: from here on a signal ends the process at once, with no exception to print."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, signal.SIG_DFL)


def _receive(number: int, frame: FrameType | None) -> None:
    since = _waits_since.setdefault(number, time.monotonic())
    if _imports(frame) and time.monotonic() - since < _MOST_SECONDS:
        _send_again(number)
        return
    _waits_since.clear()
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _send_again(number: int) -> None:
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, (main, number))
    timer.daemon = True
    timer.start()
