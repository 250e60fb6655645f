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
from owl2_jax.core.file_errors import why_not_readable
from owl2_jax.core.paths import as_path, in_bucket

BUDGET: Final = 1 << 27  # bytes read of all files of a set
BLOCK: Final = 1 << 16
_FEWEST_BLOCKS: Final = 3
_PACKAGE: Final = Path(__file__).parents[1]

# {"bytes": size, "hash": 32 hexadecimal digits, "share": bytes that may be read of the file}. Older ones
# have no share, and those of objects in a bucket need none.
Identity = dict[str, Any]


def identities(paths: Sequence[str | os.PathLike]) -> dict[str, Identity]:
    """{name: identity} of files; those of this package go by their place in it. Raises `Owl2Error`."""
    distinct = {_name(path): path for path in paths}  # a file may be read several times by its set
    share = _share(len(distinct))
    return {name: file_identity(path, share) for name, path in distinct.items()}


def identities_as(before: Mapping[str, Identity], paths: Sequence[str | os.PathLike]) -> dict[str, Identity]:
    """As `identities`, with as much read of each file as when `before` was made.

    Older versions counted a file that stands twice in a set twice when they shared the budget out.
    """
    distinct = {_name(path): path for path in paths}
    return {
        name: file_identity(path, _noted_share(before.get(name, {}), len(paths)))
        for name, path in distinct.items()
    }


def identities_now(before: Mapping[str, Identity]) -> dict[str, Identity]:
    """What the files that `identities` knew are by now, as far as their names alone tell.

    Left out are missing files, those of this package, and those that an older version may have read
    less of than their names say.

    Raises:
      Owl2Error: a file is there and cannot be read.
    """
    own = f"{_PACKAGE.name}{os.sep}"
    names = [n for n in before if not n.startswith(own) and (in_bucket(n) or os.path.lexists(n))]
    found = {name: file_identity(name, _noted_share(before[name], len(before))) for name in names}
    return {name: now for name, now in found.items() if not _is_doubtful(name, before[name], now)}


def file_identity(path: str | os.PathLike, share: int = BUDGET) -> Identity:
    """Size and hash of a file, of which at most about `share` bytes are read. Raises `Owl2Error`."""
    if in_bucket(path):
        size, version = size_and_version(as_path(path))
        return {"bytes": size, "hash": hashlib.blake2b(version.encode(), digest_size=16).hexdigest()}
    try:
        found = os.stat(path)
        read = _hash(path, found.st_size, found.st_mtime_ns, share)
        return {"bytes": found.st_size, "hash": read, "share": share}
    except OSError as error:
        raise Owl2Error(why_not_readable(path, error)) from error


@functools.lru_cache(maxsize=4096)  # a start looks before JAX is imported, and again with the sets opened
def _hash(path: str | os.PathLike, size: int, changed: int, share: int) -> str:
    del changed  # so that a file written again is read again
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


def _is_doubtful(name: str, before: Identity, now: Identity) -> bool:
    """Whether the hashes of a file of one size may differ because other parts of it were read."""
    is_whole = in_bucket(name) or now["bytes"] <= _FEWEST_BLOCKS * BLOCK
    same_size = before["bytes"] == now["bytes"]
    return "share" not in before and same_size and before["hash"] != now["hash"] and not is_whole


def _noted_share(before: Identity, count: int) -> int:
    return before.get("share") or _share(count)


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
