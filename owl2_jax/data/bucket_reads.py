"""Images and records out of buckets: by ranges, so that a host reads its own alone, and through the cache."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

from owl2_jax.core import buckets
from owl2_jax.core.buckets import size_and_version
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.large_objects import read_at
from owl2_jax.core.paths import as_path, in_bucket
from owl2_jax.data.bucket_cache import cache, piece_name

TRIES: Final = 3  # of content that arrives damaged


TOGETHER: Final = 8  # objects asked about at a time

_host = (0, 1)


@contextmanager
def of_host(number: int, count: int) -> Iterator[None]:
    """What is opened in the block is opened by each of `count` hosts, and by this one as `number`."""
    global _host
    before, _host = _host, (number, count)
    try:
        yield
    finally:
        _host = before


def in_order_of_host(length: int) -> list[int]:
    """Numbers below `length`: this host's part first, and then those of the others from the end.

    Hosts that look first whether another was there already so do every part once.
    """
    number, count = _host
    mine = range(number * length // count, (number + 1) * length // count)
    return [*mine, *(other for other in reversed(range(length)) if other not in mine)]


def objects_of(paths: Sequence[str]) -> dict[str, tuple[int, str]]:
    """{path: (bytes, version)} of those that lie in a bucket.

    Raises:
      Owl2Error: one is not there, or its store does not say.
    """
    urls = [path for path in paths if in_bucket(path)]
    with ThreadPoolExecutor(TOGETHER) as threads:
        return dict(zip(urls, threads.map(lambda url: size_and_version(as_path(url)), urls), strict=True))


def read_object(url: str) -> bytes:
    """A whole object, as it is now.

    Raises:
      FileNotFoundError: it is not there.
      Owl2Error: it cannot be read; `StoreError` where every other object could not, either.
    """
    kept = cache()
    if not kept.keeps_pieces:
        with _told_but_missing(url):
            return buckets.read(url)
    with _told_but_missing(url):
        info = buckets.file_system(url).info(url)

    def fetch() -> bytes:
        with _told_but_missing(url):
            return whole(url, lambda: buckets.read(url), info["size"], info.get("md5Hash"))

    return kept.piece(piece_name(url, buckets.version(info)), fetch)


def read_range(url: str, version: str, offset: int, size: int) -> bytes:
    """Bytes of an object from `offset` on, at most `size`: fewer where it ends before.

    Args:
      version: of the object, by which a piece of another content is told.

    Raises:
      Owl2Error: it cannot be read; `StoreError` where every other object could not, either.
    """
    kept = cache()
    if not kept.keeps_pieces:
        return read_at(url, offset, size).tobytes()
    name = piece_name(url, version, offset, size)
    return kept.piece(name, lambda: read_at(url, offset, size).tobytes())


def whole(url: str, fetch: Callable[[], bytes], size: int, md5: str | None) -> bytes:
    """What `fetch` gives, once it is all of the object.

    Args:
      md5: of its content, in base64; None where the store has none, as of one composed of others.

    Raises:
      Owl2Error: it arrived damaged `TRIES` times.
    """
    fault = ""
    for _ in range(TRIES):
        data = fetch()
        fault = fault_of(len(data), size, md5, lambda data=data: hashlib.md5(data))
        if not fault:
            return data
    raise Owl2Error(f"{url} arrived damaged {TRIES} times: {fault}; try again later")


def fault_of(found: int, size: int, md5: str | None, digest: Callable[[], Any]) -> str:
    """What is wrong with content that arrived; "" for nothing."""
    if found != size:
        return f"{found:,} of {size:,} bytes"
    if md5 is None or base64.b64encode(digest().digest()).decode() == md5:
        return ""
    return "its checksum is another"


@contextmanager
def _told_but_missing(url: str) -> Iterator[None]:
    """As `buckets.told`, with `FileNotFoundError` left as it is."""
    try:
        with buckets.told(url):
            yield
    except Owl2Error as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from None
        raise


class RangeFile(io.RawIOBase):
    """An object as a file, whose parts are read as `read_range` does.

    Args:
      url, version: as `read_range` takes them.
      size: bytes of the object.
    """

    def __init__(self, url: str, version: str, size: int) -> None:
        self._url, self._version, self._size, self._place = url, version, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The place of the next byte that is read."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to another place, as files do; returns it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = start + offset
        return self._place

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `size`; all that are left below 0. Raises as `read_range`."""
        left = max(self._size - self._place, 0)
        count = left if size < 0 else min(size, left)
        data = read_range(self._url, self._version, self._place, count) if count else b""
        self._place += len(data)
        return data
