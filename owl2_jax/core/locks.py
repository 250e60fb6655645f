"""One writer at a time: a lock file beside what is written.

The file names its holder and is touched every few seconds. It is made by a hard
link, or by exclusive creation where there are none, so it works wherever two
hosts see one folder. The lock of a holder that is gone is taken over:

- A holder of this machine is gone when its process is (or its number belongs to
  a later process).
- One elsewhere is gone when it has not touched the file for `STALE_SECONDS`: by
  the clock of the file system at the first look, and from then on by the time
  that the file was watched without a change, which needs no common clock.

In a bucket, `core.bucket_lock` does the same.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_errors import why_not_writable
from owl2_jax.core.lock_holders import (
    STALE_SECONDS,
    Holder,
    LockedError,
    end_lost,
    hold,
    in_use,
    let_go,
    lost,
    this_process,
)
from owl2_jax.core.new_folders import missing_parents, remove_empty
from owl2_jax.core.paths import in_bucket
from owl2_jax.core.processes import lives, started

LOCK_FILE: Final = "owl2.lock"  # in a folder that one process writes
BEAT_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.1
_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)


class Lock:
    """A lock that is held until `release`. Made by `take`."""

    def __init__(self, path: Path, holder: Holder, made: Sequence[Path]) -> None:
        self._path, self._holder, self._made = path, holder, made  # folders, the innermost first
        self._ended = threading.Event()
        self._last = time.time()  # beat
        self._turn = threading.Lock()  # a beat beside a release would make the file again
        hold(holder.token)
        threading.Thread(target=self._beat, name="owl2-lock", daemon=True).start()

    def share(self, process: int) -> None:
        """Another process of this machine keeps the lock as long as it lives, whatever this one does.

        Raises:
          LockedError: somebody took the lock over.
          Owl2Error: the file cannot be written.
        """
        start = started(process)
        with self._turn:
            if start is None or self._ended.is_set():
                return
            alive = {n: s for n, s in self._holder.processes.items() if lives(n, s)}
            self._holder = Holder(**{**vars(self._holder), "processes": {**alive, process: start}})
            try:
                self._check()
                _write_beside(self._path, self._holder).replace(self._path)
            except ValueError as error:  # what stands there is nobody's lock
                raise lost(self._path, None) from error
            except OSError as error:
                raise Owl2Error(why_not_writable(self._path, error)) from error

    def release(self) -> None:
        """Removes the file, and folders made for it that are still empty. Does nothing the second time."""
        with self._turn:
            if self._ended.is_set():
                return
            self._ended.set()
            with contextlib.suppress(OSError, ValueError):
                if _read(self._path).token == self._holder.token:
                    self._path.unlink()
                    remove_empty(self._made)
            let_go(self._holder.token)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            # A disk that is away for a while is no reason to stop: others see no beat and decide.
            with self._turn, contextlib.suppress(OSError, ValueError):
                if self._ended.is_set():
                    return
                try:
                    self._check()
                except LockedError as error:
                    end_lost(error)
                os.utime(self._path)
                self._last = time.time()

    def _check(self) -> None:
        """Makes a file again that was removed by hand. Raises `LockedError` when somebody took it over."""
        try:
            found = _read(self._path)
        except FileNotFoundError:
            if time.time() - self._last > STALE_SECONDS:  # whoever took it over may be done already
                raise lost(self._path, None) from None
            if _create(self._path, self._holder):
                return
            found = _read(self._path)
        if found.token != self._holder.token:
            raise lost(self._path, found)


@contextlib.contextmanager
def locked(path: Path, what: str, wait: Callable[[Holder | None], bool] | None = None) -> Iterator[Lock]:
    """Holds a lock inside the block; see `take`."""
    lock = take(path, what, wait)
    try:
        yield lock
    finally:
        lock.release()


def take(path: Path, what: str, wait: Callable[[Holder | None], bool] | None = None) -> Lock:
    """Takes a lock, and that of a holder who is gone.

    Args:
      path: the lock file; missing parents are made.
      what: what is locked, for the message.
      wait: asked again and again, with the holder where one is known, while it lives or may live; False
        gives up. Without it, that is as soon as the holder is known to live.

    Raises:
      LockedError: somebody else holds it, and who.
      Owl2Error: the file cannot be written.
    """
    if in_bucket(path):
        from owl2_jax.core import bucket_lock

        return bucket_lock.take(path, what, wait)  # type: ignore[return-value]
    path = Path(path)
    mine = this_process()
    watched, made = _Watched(path, what), missing_parents(path)
    try:
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                if _create(path, mine):
                    return Lock(path, mine, made)
                found, gone = watched.look()
                if gone and _replace(path, mine, found):
                    return Lock(path, mine, made)
            except FileNotFoundError:  # another one left, and took its empty folder along
                continue
            if not wait(found) if wait is not None else gone is False:
                raise in_use(what, found)
            time.sleep(10 * _POLL_SECONDS if gone is None and found is not None else _POLL_SECONDS)
    except OSError as error:
        remove_empty(made)
        raise Owl2Error(why_not_writable(path, error)) from error


def refuse_held(path: Path, what: str) -> None:
    """A look at a lock that will be taken later: refuses it where that is sure to fail, and takes nothing.

    Raises:
      LockedError: a living process of this machine holds it, and who.
    """
    if in_bucket(path):
        from owl2_jax.core import bucket_lock

        bucket_lock.refuse_held(path, what)
        return
    with contextlib.suppress(OSError, ValueError):
        found = _read(Path(path))
        if found.lives_here():
            raise in_use(what, found)


class _Watched:
    """A lock of somebody else, watched until it is known whether its holder lives."""

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what
        self._last: tuple[str | None, float] | None = None  # token and touch of the look before
        self._since = 0.0  # when that was first seen, by `time.monotonic`
        self._beats = False  # whether this holder touched the file while it was watched

    def look(self) -> tuple[Holder | None, bool | None]:
        """(holder, whether it is gone); None for what is not known yet."""
        try:
            with open(self._path, "rb") as file:
                text, touched = file.read(), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None, None
        try:
            holder = Holder.parse(text)
        except ValueError:  # being written, or left by a machine that lost its power
            return None, self._is_gone(None, touched)
        lives = holder.lives_here()
        if lives is not None:
            return holder, not lives
        is_new = self._last is None or self._last[0] != holder.token
        gone = self._is_gone(holder.token, touched)
        if is_new and not gone:
            print(
                f"{self._what} is in use or was left behind: {holder}. Waiting up to "
                f"{STALE_SECONDS:g} s for a sign of life",
                file=sys.stderr,
                flush=True,
            )
        return holder, gone

    def _is_gone(self, token: str | None, touched: float) -> bool | None:
        """Whether a holder whose process cannot be looked at is gone; its touches are its signs of life."""
        now = time.monotonic()
        if (token, touched) != self._last:
            self._beats = self._last is not None and self._last[0] == token
            self._last, self._since = (token, touched), now
        if now - self._since > STALE_SECONDS:
            return True
        if self._beats:
            return False
        return self._is_silent(touched) or None

    def _is_silent(self, touched: float) -> bool:
        """By the clock of the file system, which stamps a new file; hosts may disagree about the time."""
        probe = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}.now")
        try:
            probe.touch(exist_ok=False)
            return probe.stat().st_mtime - touched > STALE_SECONDS
        finally:
            probe.unlink(missing_ok=True)


def _create(path: Path, holder: Holder) -> bool:
    """Makes the lock file as a whole, or says that there is one."""
    if path.exists():
        return False
    beside = _write_beside(path, holder)
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_exclusively(path, holder.dump())
    finally:
        beside.unlink(missing_ok=True)
    return True


def _create_exclusively(path: Path, content: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


def _replace(path: Path, mine: Holder, gone: Holder | None) -> bool:
    """Takes over the lock of `gone`, unless somebody was faster.

    Only who holds the second file may do so, and only after another look at the
    first, so that of many who found the same dead holder one wins.
    """
    token = gone.token if gone else None
    claim = path.with_name(f".{path.name}.claim")
    if not _create_exclusively(claim, mine.dump()):
        with contextlib.suppress(FileNotFoundError):
            if _Watched(path, "")._is_silent(claim.stat().st_mtime):  # its maker died just there
                claim.unlink()
        return False
    try:
        now = None
        with contextlib.suppress(ValueError):
            now = _read(path).token
        if now != token:
            return False
        _write_beside(path, mine).replace(path)
        return True
    except FileNotFoundError:
        return False
    finally:
        claim.unlink(missing_ok=True)


def _write_beside(path: Path, holder: Holder) -> Path:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(holder.dump())
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    return beside


def _read(path: Path) -> Holder:
    return Holder.parse(path.read_bytes())
