"""What was read of buckets, kept in a folder of a local disk that stays within a given size.

The folder holds copies of whole objects (`data.sources.bucket_files`) and pieces:
images, and records of shards. A piece is a file of its content and a checksum, which
is compared whenever it is read, so that a damaged one is fetched again. When there
is no room for what is new, what was used longest ago goes, but for the copies that a
living process reads.

    OWL2_DATA_CACHE/  total     bytes in all, by which processes share the room
                      uses/     copies that living processes read
                      pieces/   by the two first letters of their name
                      DIGEST/   a copy, under the name of its object

`OWL2_DATA_CACHE` names the folder (`~/.cache/owl2_jax/data`), `OWL2_DATA_CACHE_GIB` its
size. Where that is not given, pieces are not kept, and copies have 50 GiB.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from owl2_jax.core.buckets import StoreError
from owl2_jax.core.fields import read_number
from owl2_jax.core.file_errors import why_not_writable
from owl2_jax.core.ranges import Positive

FOLDER: Final = "OWL2_DATA_CACHE"
BOUND: Final = "OWL2_DATA_CACHE_GIB"
_DEFAULT_GIB: Final = "50"
_PIECES: Final = "pieces"
_USES: Final = "uses"
_TOTAL: Final = "total"
_CHECKSUM: Final = 16  # bytes behind a piece's content
_LEFT: Final = 0.9  # of the size, once what was used longest ago has gone


@dataclass(frozen=True)
class Cache:
    """The folder and its size.

    Attributes:
      bound: bytes that all together may take.
      keeps_pieces: whether a size was given.
    """

    folder: Path
    bound: float
    keeps_pieces: bool

    def piece(self, name: str, fetch: Callable[[], bytes]) -> bytes:
        """What `fetch` gives: from the disk when it was kept under this name, else fetched and kept.

        Args:
          name: hexadecimal digits that stand for this content and no other.

        Raises:
          StoreError: the folder cannot be written, which is no fault of this content.
          Exception: what `fetch` raises.
        """
        path = self.folder / _PIECES / name[:2] / name
        with self._written():
            found = _read_piece(path)
        if found is None:
            found = fetch()
            with self._written():
                self._keep(path, found)
        return found

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Words what the folder's disk refuses. Raises `StoreError`."""
        try:
            yield
        except OSError as error:
            raise StoreError(why_not_writable(self.folder, error)) from error

    def _keep(self, path: Path, content: bytes) -> None:
        size = len(content) + _CHECKSUM
        if not self.make_room(size):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{uuid.uuid4().hex[:8]}.tmp")
        try:
            beside.write_bytes(content + _checksum(path.name, content))
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    def make_room(self, size: int, always: bool = False) -> bool:
        """Counts so many bytes more, and removes others where they are too many; says whether they fit.

        Args:
          always: they come even where they do not fit.
        """
        with self._total() as total:
            if total.value + size > self.bound and (always or size <= self.bound):
                total.value = self._remove_oldest(self.bound * _LEFT - size)
            fits = total.value + size <= self.bound
            total.value += size if fits or always else 0
            return fits

    @contextmanager
    def _total(self) -> Iterator[_Number]:
        """The bytes in all, while no other process counts."""
        (self.folder / _USES).mkdir(parents=True, exist_ok=True)
        with (self.folder / _TOTAL).open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            number = _Number(int(text) if text.isdigit() else sum(one.size for one in self._files()))
            yield number
            file.seek(0)
            file.truncate()
            file.write(str(number.value))

    def _remove_oldest(self, bound: float) -> int:
        """Removes what was used longest ago until the rest has at most `bound` bytes; returns those."""
        used = self.read_by_others()
        found = sorted(self._files(), key=lambda file: file.used)
        total = sum(file.size for file in found)
        for file in found:
            if total <= bound:
                break
            if file.path.relative_to(self.folder).as_posix() in used:
                continue
            file.path.unlink(missing_ok=True)
            if file.path.parent.parent == self.folder:  # of a copy alone
                with suppress(OSError):  # something else lies there
                    file.path.parent.rmdir()
            total -= file.size
        return total

    def _files(self) -> Iterator[_File]:
        """The copies and the pieces."""
        for pattern in ("*/*", f"{_PIECES}/*/*"):
            for path in self.folder.glob(pattern):
                if path.name[0] == "." or path.parent.name == _USES or path.is_dir():
                    continue
                with suppress(FileNotFoundError):  # another process removed it
                    status = path.stat()
                    yield _File(path, status.st_size, status.st_mtime)

    def note(self, names: list[str]) -> IO[str]:
        """Says that this process reads copies, as long as the file it gives is open."""
        with self._total():  # while nobody decides what to remove
            file = (self.folder / _USES / f"{uuid.uuid4().hex}.json").open("w+")
            fcntl.flock(file, fcntl.LOCK_EX)
            json.dump(names, file)
            file.flush()
        return file

    def read_by_others(self) -> set[str]:
        """Copies that a living process reads; notes of dead ones go."""
        names: set[str] = set()
        for path in (self.folder / _USES).glob("*.json"):
            with path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    text = file.read()
                    names.update(json.loads(text) if text else [])
                else:
                    path.unlink(missing_ok=True)
        return names


@dataclass
class _Number:
    value: int


@dataclass(frozen=True)
class _File:
    path: Path
    size: int
    used: float


def cache() -> Cache:
    """As the variables say. Raises `Owl2Error` for a size that is none."""
    given = os.environ.get(FOLDER, "").strip()
    folder = Path(given).expanduser() if given else Path.home() / ".cache" / "owl2_jax" / "data"
    size = os.environ.get(BOUND)
    bound = read_number(Positive, size or _DEFAULT_GIB, BOUND) * 2**30
    return Cache(folder.absolute(), bound, bool(size))


def piece_name(*parts: object) -> str:
    """A name for content that these tell from every other."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]


def _read_piece(path: Path) -> bytes | None:
    """The content of a piece; None where it is not there or damaged."""
    try:
        data = path.read_bytes()
        os.utime(path)
    except FileNotFoundError:
        return None
    content, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
    return content if checksum == _checksum(path.name, content) else None


def _checksum(name: str, content: bytes) -> bytes:
    """Of a piece under this name: one that was mixed up with another is damaged, too."""
    return hashlib.blake2b(content, digest_size=_CHECKSUM, key=name.encode()).digest()
