"""Folders that are made for a file, and go again when nothing came into them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def with_parents(path: Path) -> Iterator[None]:
    """Makes the missing folders above a file; they go again when the block fails and they are empty."""
    made = missing_parents(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        remove_empty(made)
        raise


def missing_parents(path: Path) -> list[Path]:
    """The folders above a file that are not there, the innermost first."""
    return [folder for folder in path.parents if not folder.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes folders up to the first that holds something or that somebody else removed."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()
