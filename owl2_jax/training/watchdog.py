"""Ends a run that hangs, so that whatever started it can start it again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

import jax

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.json_files import read_json_object, write_json
from owl2_jax.parallel.multihost import EXIT_HANG, exit_hung

HEARTBEATS_DIR: Final = "heartbeats"
_HEARTBEAT_SECONDS: Final = 10.0


class Watchdog:
    """A thread that expects a sign of life at least every `seconds`.

    Every process watches itself; when one host hangs, the others wait for it
    and their watchdogs end them too. Processes tell each other their steps
    through files of the run directory, which all of them see.

    Args:
      run: the run directory.
      seconds: longest silence; 0 watches nothing.
      expire: what to do then, by default `exit_stalled`.
    """

    def __init__(
        self, run: Path, seconds: float, expire: Callable[[Path, int, float], None] | None = None
    ) -> None:
        self._run, self._seconds = run, seconds
        self._expire = expire or exit_stalled
        self._step, self._beat = 0, time.monotonic()
        self._paused = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def beat(self, step: int) -> None:
        """A sign of life: `step` steps are done."""
        self._step, self._beat = step, time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Silence is fine inside this block: an evaluation takes as long as it takes."""
        self._paused = True
        try:
            yield
        finally:
            self._beat = time.monotonic()
            self._paused = False

    def _watch(self) -> None:
        last = -_HEARTBEAT_SECONDS
        while not self._ended.wait(min(self._seconds / 8, 1.0)):
            now = time.monotonic()
            if jax.process_count() > 1 and now - last >= _HEARTBEAT_SECONDS:
                with contextlib.suppress(Owl2Error):  # for the others to read; no reason to stop watching
                    write_heartbeat(self._run, jax.process_index(), self._step)
                last = now
            if not self._paused and now - self._beat > self._seconds:
                self._expire(self._run, self._step, now - self._beat)
                return


def write_heartbeat(run: Path, process: int, step: int) -> None:
    """Raises `Owl2Error` when the disk is full or away."""
    write_json(run / HEARTBEATS_DIR / f"{process}.json", {"step": step, "time": time.time()})


def exit_stalled(run: Path, step: int, silence: float) -> None:
    """Prints every host's step and the stacks of this one, and ends the process with `EXIT_HANG`."""
    lines = [
        f"error: host {jax.process_index()} finished no step for {silence:.0f} s (train.watchdog_seconds), "
        f"its last is {step}; exiting with {EXIT_HANG}, the same command resumes from the last checkpoint"
    ]
    with contextlib.suppress(Exception):  # whatever a disk or store that hangs, too, raises: the run must end
        lines += _last_beats(run)
    exit_hung("\n".join([*lines, "stacks of this host:"]))


def _last_beats(run: Path) -> list[str]:
    """A line for each host that wrote a heartbeat."""
    lines = []
    files = [path for path in (run / HEARTBEATS_DIR).glob("*.json") if path.stem.isdecimal()]
    for path in sorted(files, key=lambda path: int(path.stem)):
        with contextlib.suppress(Owl2Error, KeyError, TypeError):
            values = read_json_object(path)
            age = time.time() - values["time"]
            lines.append(f"  host {path.stem}: step {values['step']}, {age:.0f} s ago")
    return lines
