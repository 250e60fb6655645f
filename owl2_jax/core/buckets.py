"""Objects in buckets: what errors of a store mean, looking at objects, and objects that grow.

A bucket has no rename, no append and no file that only one can make. Objects
appear whole, and what grows is kept in memory and written again at intervals.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from owl2_jax.core.errors import Owl2Error, counted
from owl2_jax.core.paths import as_path, in_bucket, scheme_of

# Packages whose errors are those of a store, where they are no `OSError`.
_PACKAGES: Final = ("gcsfs", "google", "aiohttp", "requests", "s3fs", "botocore", "aiobotocore")
_LOGIN: Final = {
    "gs": "run `gcloud auth application-default login`, or give a service account "
    "(GOOGLE_APPLICATION_CREDENTIALS, or the machine's own)",
    "s3": "run `aws sso login` or `aws configure`, or give the machine a role (AWS_PROFILE, "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are read, too)",
}
_RIGHTS: Final = {
    "gs": "roles/storage.objectUser",
    "s3": "s3:ListBucket on it, and s3:GetObject, s3:PutObject and s3:DeleteObject on what it holds,",
}
_CREDENTIALS_WORDS: Final = ("credential", "token", "anonymous caller", "refresh", "401")
# What Amazon's store calls keys that are not, or not any more, good; s3fs makes them all one error.
_BAD_KEYS: Final = (
    "ExpiredToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "TokenRefreshRequired",
)
_SECONDS: Final = 10.0  # between two writes of an object that grows
_SHARE: Final = 20  # at least so many times as long as the last write took
_MOST_SECONDS: Final = 300.0  # after a write that failed
_MAY_PASS: Final = (408, 429)  # of the codes that blame the request
_LATER: Final = "; try again later"


class StoreError(Owl2Error):
    """What a store, or the cache before it, says to every request alike: no single object is at fault."""


class AwayError(StoreError):
    """A store that does not answer as it should; a later try may find it well."""


def why_not(path: str | os.PathLike, error: Exception) -> str | None:
    """The line for an error of a store; None for any other error."""
    found = _as_error(path, error)
    return None if found is None else str(found)


def _as_error(path: str | os.PathLike, error: Exception) -> Owl2Error | None:
    """What to raise for an error of a store, `AwayError` where it may pass; None for any other error."""
    known = isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _PACKAGES
    if not known:
        return None
    scheme = scheme_of(path) or "gs"
    text = " ".join(str(error).split()) or type(error).__name__
    code = getattr(error, "code", None)
    if isinstance(error, FileNotFoundError):
        return Owl2Error(f"{path} is not there: no such bucket, or no such object in it")
    bad_keys = _code(error) in _BAD_KEYS
    denied = isinstance(error, PermissionError) or code == 403 or text.startswith("Forbidden")
    if denied and not bad_keys:
        return Owl2Error(
            f"{path}: this account may not do that ({_RIGHTS[scheme]} would let it): {text[:200]}"
        )
    if bad_keys or _is_of_login(error, code, text):
        return StoreError(f"{path}: there are no valid credentials ({text[:200]}); {_LOGIN[scheme]}")
    if isinstance(code, int) and 400 <= code < 500 and code not in _MAY_PASS:
        return Owl2Error(f"{path}: the bucket's store refuses: {text[:200]}")
    return AwayError(f"{path}: the bucket's store does not answer as it should: {text[:200]}{_LATER}")


def _code(error: Exception) -> str:
    """What Amazon's store called an error that s3fs translated; empty for any other."""
    answer: Any = getattr(error.__cause__, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))


def _is_of_login(error: Exception, code: Any, text: str) -> bool:
    """Whether an error means missing or worn-out credentials, and no network that is away."""
    if type(error).__module__.startswith("google.auth"):
        return type(error).__name__ != "TransportError" and not getattr(error, "retryable", False)
    if code == 401:
        return True
    return not isinstance(error, OSError) and any(word in text.lower() for word in _CREDENTIALS_WORDS)


def store_error(error: Exception) -> str | None:
    """The line for an error of a bucket's packages that says not of what; None for any other error."""
    if type(error).__module__.partition(".")[0] not in _PACKAGES:
        return None
    return why_not("a bucket", error)


@contextmanager
def told(path: str | os.PathLike) -> Iterator[None]:
    """Raises `Owl2Error` for what a store raises in the block; `AwayError` where that may pass."""
    try:
        yield
    except Owl2Error:
        raise
    except Exception as error:
        found = _as_error(path, error)
        if found is None:
            raise
        raise found from error


@contextmanager
def told_by_tensorstore(path: str | os.PathLike) -> Iterator[None]:
    """As `told`, where TensorStore asks: it raises a `ValueError` with the status in front."""
    try:
        with told(path):
            yield
    except ValueError as error:
        text = " ".join(str(error).split(" [", 1)[0].split())
        raise Owl2Error(f"{os.fspath(path)}: the bucket's store refuses: {text[:300]}") from error


def check_writable(folder: str | os.PathLike, flag: str) -> None:
    """Writes a small object into a folder of a bucket and removes it again.

    Raises:
      Owl2Error: it cannot be written, with `flag` in front: credentials, rights, or no such bucket.
    """
    probe = as_path(folder) / f".{uuid.uuid4().hex[:8]}.tmp"
    try:
        with told(folder):
            probe.write_bytes(b"owl2")
            probe.unlink()
    except Owl2Error as error:
        raise Owl2Error(f"{flag} {error}") from error


def check_readable(folder: str | os.PathLike) -> None:
    """Raises `Owl2Error` where nothing lies below `folder`, or it may not be seen."""
    with told(folder):
        if not any(True for _ in as_path(folder).iterdir()):
            raise FileNotFoundError(str(folder))


def read(path: str | os.PathLike) -> bytes:
    """An object's content, by one request. Raises `FileNotFoundError`, or what the store raises."""
    return file_system(path).cat_file(os.fspath(path))


def info(url: str) -> dict[str, Any]:
    """What a store knows of an object: "size", a version and checksums of its kind. Raises `Owl2Error`."""
    with told(url):
        return file_system(url).info(url)


def matching(pattern: str) -> list[str]:
    """The URLs of objects that a URL with `*` stands for, sorted. Raises `Owl2Error`."""
    with told(pattern):
        return [f"{scheme_of(pattern)}://{name}" for name in sorted(file_system(pattern).glob(pattern))]


def download(url: str, target: Path) -> None:
    """Copies an object to a file of this machine. Raises `Owl2Error`."""
    with told(url):
        file_system(url).get_file(url, str(target))


def exists(path: str | os.PathLike) -> bool:
    """Whether a file, a link (also one to nowhere), an object or a folder is there.

    Raises:
      Owl2Error: the store does not say.
    """
    if not in_bucket(path):
        return os.path.lexists(path)
    with told(path):
        return as_path(path).exists()


def names_in(folder: str | os.PathLike) -> list[str]:
    """What lies in a folder, sorted. Raises `OSError`, or `Owl2Error` for a store."""
    if not in_bucket(folder):
        return sorted(os.listdir(folder))
    with told(folder):
        return sorted(path.name for path in as_path(folder).iterdir())


def is_folder(path: str | os.PathLike) -> bool:
    """Whether a folder is there; in a bucket, whether anything lies below it. Raises `Owl2Error`."""
    if not in_bucket(path):
        return os.path.isdir(path)
    with told(path):
        return as_path(path).is_dir()


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, of this machine or in a bucket."""
    if not in_bucket(folder):
        yield from (file for file in folder.rglob("*") if file.is_file())
        return
    scheme = scheme_of(folder)
    with told(folder):
        for name in file_system(folder).find(os.fspath(folder)):
            yield as_path(f"{scheme}://{name}")


def size_and_version(file: Path) -> tuple[int, str]:
    """Bytes of a file, and what changes when it is written again: its time, or an object's generation."""
    if not in_bucket(file):
        status = file.stat()
        return status.st_size, str(status.st_mtime_ns)
    with told(file):
        info = file_system(file).info(os.fspath(file))
    return info["size"], version(info)


def version(info: Mapping[str, Any]) -> str:
    """What changes when an object is written again, of what a store knows of it."""
    return str(info.get("md5Hash") or info.get("generation") or info.get("ETag"))


def move_folder(source: Path, target: Path) -> None:
    """Gives all objects below `source` names below `target`: by copies, as a bucket renames nothing."""
    with told(source):
        file_system(source).mv(os.fspath(source), os.fspath(target), recursive=True)


def move(source: str, target: str, last: str = "") -> None:
    """Gives an object, or all below a folder, another name: by copies, as a bucket renames nothing.

    Args:
      last: the name, below a folder, of the object that comes after all others.

    Raises:
      Owl2Error: nothing is there, or the store refuses.
    """
    store = file_system(source)
    with told(source):
        if store.isfile(source):
            store.mv(source, target)
            return
        end = f"{source}/{last}".partition("://")[2]
        found = [name for name in store.find(source) if name != end]
        names = [f"{target}{name[len(source.partition('://')[2]) :]}" for name in found]
        store.copy(found, names)
        if last:
            store.copy(f"{source}/{last}", f"{target}/{last}")
        store.rm(source, recursive=True)


def remove_folder(folder: Path) -> None:
    """Removes all objects below a folder; none there is no error. Raises `Owl2Error`."""
    with told(folder), suppress(FileNotFoundError):
        file_system(folder).rm(os.fspath(folder), recursive=True)


def upload_folder(source: Path, target: Path) -> None:
    """Writes all files below a folder of this machine into a bucket. Raises `Owl2Error`."""
    with told(target):
        file_system(target).put(f"{source}/", f"{os.fspath(target)}/", recursive=True)


def key_values(path: str | os.PathLike) -> dict[str, Any]:
    """TensorStore's name for the files below a folder, of this machine or in a bucket."""
    scheme, _, rest = os.fspath(path).partition("://")
    if not rest:
        return {"driver": "file", "path": f"{os.fspath(path)}/"}
    bucket, _, name = rest.partition("/")
    place = {"bucket": bucket, "path": f"{name}/" if name else ""}
    if scheme == "gs":
        return {"driver": "gcs", **place}
    # TensorStore reads neither variable itself.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    given = {"endpoint": endpoint, "aws_region": region}
    return {"driver": "s3", **place, **{name: value for name, value in given.items() if value}}


def file_system(path: str | os.PathLike) -> Any:
    """The file system of fsspec for a URL, of this process: they do not outlive a fork."""
    import fsspec

    as_path(path)  # sets up its packages

    return fsspec.core.url_to_fs(os.fspath(path))[0]


class GrowingObject:
    """An object with records added at its end: in memory, and in the bucket at intervals.

    The interval is ten seconds, and longer where the object is large, so that
    writing takes at most a twentieth of the time. While the store does not answer,
    the records wait in memory: that is told once, and they are tried again.

    Args:
      path: what is there already is kept.

    Raises:
      Owl2Error: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._waiting, self._is_away = path, 0, False
        with told(path):
            self._content = bytearray(path.read_bytes() if path.exists() else b"")
        self._due = time.monotonic() + _SECONDS

    def write(self, record: bytes | memoryview) -> int:
        """Adds a record. Raises as `flush` does, when one was due to be written."""
        self._content += record
        self._waiting += 1
        if time.monotonic() >= self._due:
            self.flush()
        return len(record)

    def flush(self) -> None:
        """Writes what is not in the bucket yet, or says once that it waits.

        Raises:
          Owl2Error: the store refuses for good, with how much is missing there.
        """
        start = time.monotonic()
        try:
            self._put()
        except AwayError as error:
            if not self._is_away:
                reason = str(error).removesuffix(_LATER)
                _warn(f"{reason}; {self._rest()} in memory, and it is tried again now and then")
            self._is_away = True
        except Owl2Error as error:
            raise self._incomplete(error) from error
        else:
            if self._is_away:
                _warn(f"{self._path} is whole again: the store answers")
            self._is_away = False
        now = time.monotonic()
        pause = max(_SECONDS, _SHARE * (now - start))
        self._due = now + (min(pause, _MOST_SECONDS) if self._is_away else pause)

    def close(self) -> None:
        """As `flush`, for the last time: raises for a store that does not answer, too."""
        try:
            self._put()
        except Owl2Error as error:
            raise self._incomplete(error) from error

    def _put(self) -> None:
        if self._waiting:
            with told(self._path):
                self._path.write_bytes(bytes(self._content))
            self._waiting = 0

    def _incomplete(self, error: Owl2Error) -> Owl2Error:
        return Owl2Error(f"{error}; {self._rest()} missing in it")

    def _rest(self) -> str:
        return f"its last {counted(self._waiting, 'record')} {'is' if self._waiting == 1 else 'are'}"


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


def remove_if_there(path: Path) -> None:
    """Removes a file or an object; one that is not there any more is no error."""
    if not in_bucket(path):
        path.unlink(missing_ok=True)
        return
    with told(path), suppress(FileNotFoundError):
        path.unlink()
