"""An object of a bucket that is written on the condition that nobody else wrote it.

Google's store counts the versions of an object (its generation), Amazon's names
them by a hash (its ETag); both take a write bound to one of them.
"""

from __future__ import annotations

import os
from typing import Any, Final, NamedTuple, Protocol

from owl2_jax.core.buckets import file_system, key_values, told, told_by_tensorstore
from owl2_jax.core.paths import scheme_of

# How Amazon's store says that the condition does not hold, or that two writes met.
_NOT_AS_IT_WAS: Final = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_NOT_THERE: Final = ("NoSuchKey", "404")


class Version(NamedTuple):
    """An object's content, None where there is none, and the generation to which a write can be bound."""

    content: bytes | None
    generation: bytes


class ConditionalObject(Protocol):
    """An object that is written only if nobody wrote it since it was read.

    Raises:
      Owl2Error: by every method, for errors of the store.
    """

    def read(self) -> Version:
        """The object as it is now."""

    def write(self, content: bytes | None, generation: bytes) -> bytes | None:
        """Writes, or deletes with None, where the object still has `generation`.

        Returns:
          The new generation; None where somebody else was faster.
        """


def conditional_object(path: str | os.PathLike) -> ConditionalObject:
    """The object of a URL."""
    return _OfAmazon(path) if scheme_of(path) == "s3" else _OfGoogle(path)


class _OfGoogle:
    def __init__(self, path: str | os.PathLike) -> None:
        import tensorstore

        self._path = os.fspath(path)
        folder, _, self._name = self._path.rpartition("/")
        with told_by_tensorstore(self._path):
            self._store = tensorstore.KvStore.open(key_values(folder)).result()

    def read(self) -> Version:
        with told_by_tensorstore(self._path):
            found = self._store.read(self._name).result()
        return Version(found.value if found.state == "value" else None, found.stamp.generation)

    def write(self, content: bytes | None, generation: bytes) -> bytes | None:
        with told_by_tensorstore(self._path):
            stamp = self._store.write(self._name, content, if_equal=generation).result()
        return stamp.generation or None


class _OfAmazon:
    """An empty generation stands for an object that is not there."""

    def __init__(self, path: str | os.PathLike) -> None:
        self._path = os.fspath(path)
        bucket, _, name = self._path.partition("://")[2].partition("/")
        self._place = {"Bucket": bucket, "Key": name}
        with told(self._path):
            self._store = file_system(self._path)

    def read(self) -> Version:
        from fsspec.asyn import sync

        with told(self._path):
            try:
                content, tag = sync(self._store.loop, self._get)
            except FileNotFoundError as error:
                if _code(error) not in _NOT_THERE:  # no such bucket
                    raise
                return Version(None, b"")
        return Version(content, tag.encode())

    def write(self, content: bytes | None, generation: bytes) -> bytes | None:
        condition = {"IfMatch": generation.decode()} if generation else {"IfNoneMatch": "*"}
        with told(self._path):
            try:
                if content is None:
                    self._store.call_s3("delete_object", **self._place, **condition)
                    return b""
                answer = self._store.call_s3("put_object", **self._place, Body=content, **condition)
            except OSError as error:
                # Also for one that is gone, when it should still be as it was.
                if _code(error) in _NOT_AS_IT_WAS or (generation and _code(error) in _NOT_THERE):
                    return None
                raise
        return answer["ETag"].encode()

    async def _get(self) -> tuple[bytes, str]:
        answer = await self._store._call_s3("get_object", **self._place)
        async with answer["Body"] as body:
            return await body.read(), answer["ETag"]


def _code(error: BaseException) -> str:
    """What Amazon's store called an error that s3fs translated."""
    answer: Any = getattr(error.__cause__, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))
