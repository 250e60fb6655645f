"""One writer at a time of a folder in a bucket: an object that is written on a condition.

It names its holder as the lock file of `core.locks` does. Its holder writes it again
every few seconds, each time only if it is still what it wrote last; so whoever
takes it over is seen at the next beat. A holder elsewhere whose object does not
change for `STALE_SECONDS` is gone.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from owl2_jax.core import lock_holders
from owl2_jax.core.conditional_object import ConditionalObject, conditional_object
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.lock_holders import STALE_SECONDS, Holder
from owl2_jax.core.processes import lives, started

BEAT_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 1.0


class BucketLock:
    """A lock that is held until `release`; as `locks.Lock`."""

    def __init__(self, path: Path, holder: Holder, store: ConditionalObject, generation: bytes) -> None:
        self._path, self._holder = path, holder
        self._store, self._generation = store, generation
        self._ended, self._guard = threading.Event(), threading.Lock()
        self._beats, self._last = 0, time.time()
        lock_holders.hold(holder.token)
        threading.Thread(target=self._beat, name="owl2-lock", daemon=True).start()

    def share(self, process: int) -> None:
        """Another process of this machine keeps the lock as long as it lives, whatever this one does."""
        start = started(process)
        if start is not None and not self._ended.is_set():
            alive = {n: s for n, s in self._holder.processes.items() if lives(n, s)}
            self._holder = Holder(**{**vars(self._holder), "processes": {**alive, process: start}})
            self._write()

    def release(self) -> None:
        """Removes the object, where it is still this lock's. Does nothing the second time."""
        if self._ended.is_set():
            return
        self._ended.set()
        with self._guard, contextlib.suppress(Owl2Error):
            self._store.write(None, self._generation)
        lock_holders.let_go(self._holder.token)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            # A store that is away for a while is no reason to stop: others see no beat and decide.
            with contextlib.suppress(Owl2Error):
                self._write()

    def _write(self) -> None:
        with self._guard:
            if self._ended.is_set():
                return
            self._beats += 1
            content = json.dumps({**json.loads(self._holder.dump()), "beats": self._beats}).encode()
            written = self._store.write(content, self._generation)
            if written is None:
                written = self._write_after_another(content)
            self._generation, self._last = written, time.time()

    def _write_after_another(self, content: bytes) -> bytes:
        """The generation after a write that found another one than the last of this lock.

        It may be this lock's own write whose answer got lost. One that was removed or spoilt by hand is
        made again; a process that holds the lock by now ends this one.
        """
        while True:
            found = self._store.read()
            holder = _holder(found.content)
            if holder is not None and holder.token == self._holder.token:
                return found.generation
            if holder is not None or time.time() - self._last > STALE_SECONDS:
                lock_holders.end_lost(lock_holders.lost(self._path, holder))
            written = self._store.write(content, found.generation)
            if written is not None:
                return written


def take(path: Path, what: str, wait: Callable[[Holder | None], bool] | None = None) -> BucketLock:
    """As `locks.take`, for an object in a bucket."""
    store, mine = conditional_object(path), lock_holders.this_process()
    first: tuple[bytes, float] | None = None
    while True:
        found = store.read()
        holder = _holder(found.content)
        alive = holder.lives_here() if holder is not None else None
        is_new = first is None
        if first is None or first[0] != found.generation:
            if first is not None and alive is None and holder is not None:
                alive = True  # it was written again while it was watched
            first = (found.generation, time.monotonic())
        silent = time.monotonic() - first[1] > STALE_SECONDS
        if found.content is None or alive is False or (alive is None and silent):
            written = store.write(mine.dump(), found.generation)
            if written is not None:
                return BucketLock(path, mine, store, written)
            continue
        if not wait(holder) if wait is not None else alive:
            raise lock_holders.in_use(what, holder)
        if is_new and holder is not None:
            print(
                f"{what} is in use or was left behind: {holder}. Waiting up to {STALE_SECONDS:g} s for a "
                "sign of life",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(_POLL_SECONDS)


def refuse_held(path: Path, what: str) -> None:
    """As `locks.refuse_held`, for an object in a bucket."""
    holder = _holder(conditional_object(path).read().content)
    if holder is not None and holder.lives_here():
        raise lock_holders.in_use(what, holder)


def _holder(content: bytes | None) -> Holder | None:
    with contextlib.suppress(ValueError):
        return None if content is None else Holder.parse(content)
    return None
