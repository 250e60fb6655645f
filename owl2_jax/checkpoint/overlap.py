"""Reading, moving and writing at the same time, one tensor of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; each is made in a thread while the one before it is used."""
    done = object()
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, items, done)
        while (item := following.result()) is not done:
            following = thread.submit(next, items, done)
            yield item  # type: ignore[misc]


@contextmanager
def write_behind() -> Iterator[Callable[..., None]]:
    """Gives `run(function, *arguments)`, which returns while the call goes on in a thread.

    One call is under way at a time: a second waits for the first. What a call
    raises is raised by the next one, or at the end of the block.
    """
    pending: list[Future[None]] = []
    with ThreadPoolExecutor(1) as thread:

        def run(function: Callable[..., None], *arguments: object) -> None:
            while pending:
                pending.pop().result()
            pending.append(thread.submit(function, *arguments))

        yield run
        while pending:
            pending.pop().result()
