"""What a path names: a file or folder of this machine, or an object in a bucket.

`gs://BUCKET/NAME` and `s3://BUCKET/NAME` are in a bucket. What begins with any
other scheme names nothing here, and is never taken for a folder of that name:
"gs:" itself can be one only as "./gs:".
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import re
from pathlib import Path
from typing import Final

from owl2_jax.core.errors import Owl2Error, nearest, shortened

# Scheme of a bucket, the extra that brings its packages, and the package that is looked for.
EXTRAS: Final = {"gs": ("gcs", "gcsfs"), "s3": ("s3", "s3fs")}
_KINDS: Final = "a path of this machine, gs://BUCKET/NAME or s3://BUCKET/NAME"
_COPY: Final = {"gs": "gcloud storage cp -r", "s3": "aws s3 cp --recursive"}
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(/*)")
_WEB: Final = ("http", "https", "ftp")


def scheme_of(path: str | os.PathLike) -> str | None:
    """The scheme in front of a URL, as "gs"; None for a path of this machine.

    With one slash or none behind the colon, a scheme of a bucket is one all the
    same: `pathlib` makes "gs:/bucket" of a URL.
    """
    found = _SCHEME.match(os.fspath(path))
    if found is None:
        return None
    scheme = found[1].lower()
    return scheme if len(found[2]) > 1 or scheme in EXTRAS else None


def in_bucket(path: str | os.PathLike) -> bool:
    """Whether a path that was checked lies in a bucket."""
    return scheme_of(path) in EXTRAS


def as_path(path: str | os.PathLike) -> Path:
    """The path to work with: a `pathlib.Path`, or what acts as one for a bucket's URL.

    Raises:
      Owl2Error: the packages of its bucket are not installed, or the scheme is not known.
    """
    if scheme_of(path) is None:
        return Path(path)
    expected = expected_path(path, buckets=True)
    if expected is not None:
        raise _not_as_expected(path, expected)
    _set_up_packages(scheme_of(path))
    from etils import epath

    return epath.Path(os.fspath(path))  # type: ignore[return-value]


def absolute(path: str | os.PathLike) -> Path:
    """As `as_path`, from the root and without links; a URL is that already."""
    path = as_path(path)
    return path if in_bucket(path) else path.resolve()


@functools.cache
def _set_up_packages(scheme: str | None) -> None:
    """Has fsspec ask the bucket instead of a listing that others have made old since."""
    import fsspec

    for name in {"gs": ("gs", "gcs"), "s3": ("s3", "s3a")}[scheme or "gs"]:
        fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
    logger = logging.getLogger({"gs": "gcsfs", "s3": "s3fs"}[scheme or "gs"])
    logger.propagate = False  # what fails for good is raised, and told in one line
    logger.addHandler(logging.NullHandler())
    if scheme == "gs":
        _set_up_gcsfs()


def _set_up_gcsfs() -> None:
    import fsspec

    if "STORAGE_EMULATOR_HOST" in os.environ:  # which knows no credentials
        fsspec.config.conf["gcs"].setdefault("token", "anon")
    # What gcsfs adds for folders that buckets of a new kind have asks for rights that a run does
    # without, and where they are missing it waits for a minute before each file.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    from gcsfs.core import GCSFileSystem

    if os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"].lower() not in ("true", "1"):
        for name in GCSFileSystem.protocol:  # also where someone imported gcsfs before
            fsspec.register_implementation(name, GCSFileSystem, clobber=True)


def expected_path(path: str | os.PathLike, buckets: bool) -> str | None:
    """What should have stood in place of `path`; None where it can be used.

    Args:
      buckets: whether it may lie in a bucket.
    """
    text = os.fspath(path)
    scheme = scheme_of(text)
    if scheme is None:
        return None
    if scheme not in EXTRAS:
        return _instead_of_unknown(text, scheme, buckets)
    if not buckets:
        return f"a path of this machine (copy it with `{_COPY[scheme]}`)"
    if not re.match(rf"{scheme}://[^/]", text):
        return f"{scheme}://BUCKET/NAME"
    extra, package = EXTRAS[scheme]
    if importlib.util.find_spec(package) is None:
        return (
            f"a path of this machine, as {scheme}:// needs the extra {extra} "
            f"(run `pip install 'owl2_jax[{extra}]'`)"
        )
    return None


def refuse_url(path: str | os.PathLike, name: str) -> None:
    """Raises `Owl2Error`, which begins with `name`, for what is no path of this machine."""
    expected = expected_path(path, buckets=False)
    if expected is not None:
        raise _not_as_expected(path, expected, f"{name}: ")


def _not_as_expected(path: str | os.PathLike, expected: str, name: str = "") -> Owl2Error:
    return Owl2Error(f"{name}expected {expected}, found {shortened(os.fspath(path))!r}")


def _instead_of_unknown(text: str, scheme: str, buckets: bool) -> str:
    if scheme == "file":
        return f"a path without its scheme, as {shortened(re.sub('(?i)^file:/+', '/', text))}"
    if scheme in _WEB:
        return "a path of this machine (fetch the file first)"
    if not buckets:
        return "a path of this machine"
    near = nearest(scheme, EXTRAS, 1)
    return f"{_KINDS} (did you mean {near[0]}://?)" if near else _KINDS
