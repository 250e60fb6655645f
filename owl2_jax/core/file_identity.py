"""Whether a file is still the one it was: its size and a hash of its content.

Terabytes cannot be hashed at every start, so the files of one set share a
budget. A file within its share is hashed as a whole, a larger one by blocks
spread evenly over it, the first and the last among them.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from owl2_jax.core.buckets import size_and_version
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.paths import as_path, in_bucket
from owl2_jax.core.text_files import why_not_readable

BUDGET: Final = 1 << 27  # bytes read of all files of a set
BLOCK: Final = 1 << 16
_FEWEST_BLOCKS: Final = 3
_PACKAGE: Final = Path(__file__).parents[1]

Identity = dict[str, Any]  # {"bytes": size, "hash": 32 hexadecimal digits}


def identities(paths: Sequence[str | os.PathLike]) -> dict[str, Identity]:
    """{name: identity} of files; those of this package go by their place in it. Raises `Owl2Error`."""
    distinct = {_name(path): path for path in paths}  # a file may be read several times by its set
    share = _share(len(distinct))
    return {name: file_identity(path, share) for name, path in distinct.items()}


def identities_now(before: Mapping[str, Identity]) -> dict[str, Identity]:
    """What the files that `identities` knew are by now, without those of this package; missing ones are out.

    Raises:
      Owl2Error: a file is there and cannot be read.
    """
    share = _share(len(before))
    own = f"{_PACKAGE.name}{os.sep}"
    return {
        name: file_identity(name, share)
        for name in before
        if not name.startswith(own) and (in_bucket(name) or os.path.lexists(name))
    }


def file_identity(path: str | os.PathLike, share: int = BUDGET) -> Identity:
    """Size and hash of a file, of which at most about `share` bytes are read. Raises `Owl2Error`."""
    if in_bucket(path):
        size, version = size_and_version(as_path(path))
        return {"bytes": size, "hash": hashlib.blake2b(version.encode(), digest_size=16).hexdigest()}
    try:
        found = os.stat(path)
        return {"bytes": found.st_size, "hash": _hash(path, found.st_size, found.st_mtime_ns, share)}
    except OSError as error:
        raise Owl2Error(why_not_readable(path, error)) from error


@functools.lru_cache(maxsize=4096)  # a start looks before JAX is imported, and again with the sets opened
def _hash(path: str | os.PathLike, size: int, changed: int, share: int) -> str:
    del changed  # so that a file written anew is read anew
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        for offset in _offsets(size, share):
            file.seek(offset)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def changes(before: Mapping[str, Identity], now: Mapping[str, Identity]) -> list[str]:
    """What is not as it was, a phrase for each file."""
    lines = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old is None or new is None:
            lines.append(f"{name} is {'new' if old is None else 'gone'}")
        elif old["bytes"] != new["bytes"]:
            lines.append(f"{name} had {old['bytes']:,} bytes and has {new['bytes']:,}")
        elif old["hash"] != new["hash"]:
            lines.append(f"{name} has the same size and other content")
    return lines


def _share(count: int) -> int:
    """Bytes that are read of each of so many files."""
    return max(BUDGET // max(count, 1), _FEWEST_BLOCKS * BLOCK)


def _offsets(size: int, share: int) -> list[int]:
    if size <= share:
        return list(range(0, size, BLOCK))
    blocks = max(share // BLOCK, _FEWEST_BLOCKS)
    return [(size - BLOCK) * number // (blocks - 1) for number in range(blocks)]


def _name(path: str | os.PathLike) -> str:
    if in_bucket(path):
        return os.fspath(path)
    path = Path(path)
    return str(path.relative_to(_PACKAGE.parent) if path.is_relative_to(_PACKAGE) else path)
