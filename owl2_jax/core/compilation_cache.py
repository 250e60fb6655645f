"""Compiled programs kept on disk, so that the next start of a command loads what this one compiled.

JAX keys a program by its operations, shapes and shardings, the compiler's options, the
versions of JAX and the driver, and the devices, of a CPU its instruction set. What is here
is the store below those keys: a folder of files that any number of processes and hosts read
and write at a time, never larger than `LIMIT`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_errors import why_not_readable, why_not_writable
from owl2_jax.core.file_writing import check_folder
from owl2_jax.core.paths import refuse_url

VARIABLE: Final = "OWL2_COMPILATION_CACHE"
OFF: Final = "off"
LIMIT: Final = 2 * 2**30  # bytes of all programs
_SUFFIX: Final = ".program"
_ROOM_AFTER: Final = 0.9  # of the limit, once programs are removed: not at every new one again
_ABANDONED: Final = 3600.0  # seconds after which an unfinished file has no writer any more
_NOT_A_FOLDER: Final = ("0", "1", "no", "yes", "none", "on", "true", "false", "disable", "disabled")

Tell = Callable[[str], None]


class NoFolderError(Owl2Error):
    """Compiled programs can be kept nowhere; a command does without."""


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where compiled programs are kept: the folder in `VARIABLE`, else the user's own; None for "off".

    Raises:
      Owl2Error: the variable holds neither a folder nor "off".
      NoFolderError: no home is known to put it into.
    """
    given = environment.get(VARIABLE, "").strip()
    if given.lower() == OFF:
        return None
    refuse_url(given, VARIABLE)
    if given.lower() in _NOT_A_FOLDER:
        raise Owl2Error(
            f"{VARIABLE} is {given!r}, expected a folder, or off (a folder of that name: ./{given})"
        )
    try:
        return Path(given).expanduser().absolute() if given else _caches_of_user(environment) / "owl2_jax"
    except RuntimeError as error:  # as `Path.home` and `expanduser` say it
        raise NoFolderError("there is no home folder to keep compiled programs in") from error


def _caches_of_user(environment: Mapping[str, str]) -> Path:
    named = Path(environment.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():  # a relative one is ignored, as its standard says
        return named
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")


def keep_programs_in(folder: Path, tell: Tell) -> bool:
    """Lets JAX load programs from a folder, and leave there what it compiles; False where JAX has its own.

    Args:
      folder: made if it is missing, for this user alone: whoever writes there can run code here.
      tell: takes one line when the folder stops being of use; the process goes on without it.

    Raises:
      NoFolderError: nothing can be written there.
    """
    import jax
    from jax._src import compilation_cache as of_jax

    ours = _Store.of_process
    if jax.config.jax_compilation_cache_dir and (
        ours is None or jax.config.jax_compilation_cache_dir != str(ours.folder)
    ):
        return False
    if ours is None or ours.folder != folder:
        _Store.of_process = ours = _Store(folder, tell)
        of_jax.reset_cache()
    # JAX offers a folder alone as a choice; its files are written in place, and half a file
    # is what others read meanwhile, or for ever after a kill.
    of_jax.get_file_cache = lambda path: (ours, path)
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")  # `put` tells it
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # The compiler's own files would be beyond the limit, and their folder part of every key.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    return True


class _Store:
    """Programs by key, as `jax._src.compilation_cache_interface.CacheInterface` asks for.

    A file is the SHA-256 of its content and the content. It appears under its name at once
    and whole, and its time of change is that of its last use.
    """

    of_process: _Store | None = None

    def __init__(self, folder: Path, tell: Tell, limit: int = LIMIT) -> None:
        """Raises `NoFolderError` when nothing can be written into `folder`, which is made."""
        self.folder = self._path = folder
        self._tell, self._limit = tell, limit
        self._loaded: set[str] = set()
        self._in_use = True
        try:
            check_folder(folder, "the compilation cache")
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._bytes = self._make_room(0)
        except Owl2Error as error:
            raise NoFolderError(str(error)) from error
        except OSError as error:
            raise NoFolderError(why_not_writable(folder, error)) from error

    def get(self, key: str) -> bytes | None:
        if not self._in_use:
            return None
        path = self._file(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            return self._stop(why_not_readable(path, error))
        content = data[32:]
        if hashlib.sha256(content).digest() != data[:32]:
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):  # a folder that is mounted to be read only, or removed meanwhile
            os.utime(path)
        self._loaded.add(key)
        return content

    def put(self, key: str, value: bytes) -> None:
        if not self._in_use:
            return
        if key in self._loaded:  # and compiled all the same: what was loaded is of no use to JAX
            self._stop(f"programs from {self.folder} cannot be used on this machine")
        size = 32 + len(value)
        if size > self._limit:
            return
        beside = self.folder / f".{uuid.uuid4().hex[:8]}.tmp"
        try:
            if self._bytes + size > self._limit:
                self._bytes = self._make_room(size)
            try:
                beside.write_bytes(hashlib.sha256(value).digest() + value)
                beside.replace(self._file(key))
            finally:
                beside.unlink(missing_ok=True)
        except OSError as error:
            self._stop(why_not_writable(self.folder, error))
        self._bytes += size

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _stop(self, reason: str) -> None:
        if self._in_use:
            self._in_use = False
            self._tell(f"{reason}; {WITHOUT}")

    def _make_room(self, size: int) -> int:
        """Removes what was used longest ago until `size` bytes more fit; returns the bytes that stay."""
        found, now = [], time.time()
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):  # another process makes room, too
                state = entry.stat()
                if entry.name.endswith(_SUFFIX):
                    found.append((state.st_mtime, state.st_size, entry.path))
                elif entry.name.endswith(".tmp") and now - state.st_mtime > _ABANDONED:
                    os.unlink(entry.path)
        stays = sum(each[1] for each in found)
        if stays + size <= self._limit:
            return stays
        for _, of_file, path in sorted(found):
            if stays + size <= _ROOM_AFTER * self._limit:
                break
            Path(path).unlink(missing_ok=True)
            stays -= of_file
        return stays


WITHOUT: Final = f"programs are compiled at every start ({VARIABLE} names another folder, or off)"
