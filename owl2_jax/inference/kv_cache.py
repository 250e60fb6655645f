"""Pages of the key/value cache on the host: which are free, and how many sequences use each.

A page that nobody uses any more keeps what it holds until it is needed: the prefix
cache may hand it out again. The page that was let go of first is taken first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence


class PagePool:
    """P pages with a count of users each.

    Attributes:
      count: P.
      page_size: positions of a page.
      on_reuse: told of a page that is taken for something else while it still holds what it held.
    """

    def __init__(self, count: int, page_size: int):
        self.count = count
        self.page_size = page_size
        self.on_reuse: Callable[[int], None] = lambda page: None
        self._users = [0] * count
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(count))

    @property
    def num_free(self) -> int:
        """Pages that `take` could give out."""
        return len(self._free)

    def pages_for(self, positions: int) -> int:
        """How many pages hold `positions`."""
        return -(-positions // self.page_size)

    def take(self, count: int) -> list[int] | None:
        """Gives out `count` pages with one user each; None, and nothing happens, when there are fewer."""
        if count > len(self._free):
            return None
        pages = [self._free.popitem(last=False)[0] for _ in range(count)]
        for page in pages:
            self._users[page] = 1
            self.on_reuse(page)
        return pages

    def share(self, page: int) -> None:
        """One more user of a page, free or not."""
        self._free.pop(page, None)
        self._users[page] += 1

    def release(self, pages: Sequence[int], keep: Callable[[int], bool] = lambda page: True) -> None:
        """One user less of each page of a sequence.

        The last pages become free first, so that beginnings live longest.

        Args:
          pages: in the order of their positions.
          keep: whether a page holds something that may be wanted again; others are the next to be taken.
        """
        for page in reversed(pages):
            self._users[page] -= 1
            assert self._users[page] >= 0, f"page {page} has no user"
            if not self._users[page]:
                self._free[page] = None
                if not keep(page):
                    self._free.move_to_end(page, last=False)
