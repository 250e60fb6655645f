"""Samples made ahead in threads, where making one waits for a bucket's answers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, TypeVar

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


def waits_for_bucket(source: object) -> bool:
    """Whether a source's images are asked of a bucket one by one."""
    return bool(getattr(source, "images_in_bucket", False))
