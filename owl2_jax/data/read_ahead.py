"""Samples made ahead in threads, where making one waits for a bucket's answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")

# Samples under way at a time for each shard. An answer takes some 20 to 100 ms, an image some 5 ms of a core.
SAMPLES: Final = 32


class ReadAhead(Generic[T]):
    """Every `stride`-th item of an endless sequence, taken in order, with the following ones under way.

    Args:
      items: an item depends on its position alone, so threads change nothing but the time.
      stride: between the positions that are asked for.
      ahead: items under way at a time.
    """

    def __init__(self, items: Sequence[T], stride: int, ahead: int = SAMPLES) -> None:
        self._items, self._stride, self._ahead = items, stride, ahead
        self._threads = ThreadPoolExecutor(ahead, thread_name_prefix="owl2-ahead")
        self._under_way: dict[int, Future[T]] = {}

    def __getitem__(self, position: int) -> T:
        for number in range(self._ahead):
            following = position + number * self._stride
            if following not in self._under_way:
                self._under_way[following] = self._threads.submit(self._items.__getitem__, following)
        return self._under_way.pop(position).result()


def ahead(function: Callable[[S], T], items: Iterable[S], count: int = SAMPLES) -> Iterator[T]:
    """What a function gives for each item, in their order, with `count` of them under way in threads."""
    with ThreadPoolExecutor(count, thread_name_prefix="owl2-ahead") as threads:
        under_way: deque[Future[T]] = deque()
        try:
            for item in items:
                under_way.append(threads.submit(function, item))
                if len(under_way) >= count:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)


def waits_for_bucket(source: object) -> bool:
    """Whether a source's images or records are asked of a bucket one by one."""
    return bool(getattr(source, "reads_bucket", False))
