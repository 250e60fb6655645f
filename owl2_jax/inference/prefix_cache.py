"""Prompts that begin alike share pages: a tree of pages by what stands in them and before them.

The key of a page is a hash of the key before it and of its own positions, in which
an image is the key of its content: keys and values of a position depend on what
stands before it and on nothing else. Whole pages are shared; of a page that agrees
only up to some position, a copy is made and the rest run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from owl2_jax.inference.kv_cache import PagePool

_MOST_COMPARED = 16  # pages behind a common beginning that are compared position by position


@dataclass
class _Node:
    """What a page holds.

    Attributes:
      key, parent: hashes up to its end and up to its start.
      positions: int64[n], n at most the page's size.
      ready: whether the device has computed it; before, it may be shared but not copied.
    """

    key: bytes
    parent: bytes
    positions: np.ndarray
    ready: bool


@dataclass
class Match:
    """The beginning of a prompt that the cache has.

    Attributes:
      pages: whole pages, each with one user more.
      source: a page of which the next `extra` positions agree too, with one user more; -1 for none.
      extra: positions of `source` to copy.
    """

    pages: list[int] = field(default_factory=list)
    source: int = -1
    extra: int = 0


class PrefixCache:
    """Finds pages of `pool` by their contents; with `enabled` False it finds none."""

    def __init__(self, pool: PagePool, enabled: bool = True):
        self._pool = pool
        self._enabled = enabled
        self._nodes: dict[int, _Node] = {}  # by page
        self._pages: dict[bytes, int] = {}  # by key
        self._children: dict[bytes, dict[int, None]] = {}  # pages by the key before them, oldest first
        pool.on_reuse = self.forget

    def __contains__(self, page: int) -> bool:
        return page in self._nodes

    def match(self, signature: np.ndarray, root: bytes = b"") -> Match:
        """The longest known beginning of int64[n] that leaves at least one position to run.

        Args:
          root: sequences of different roots have nothing in common.
        """
        found, key, size = Match(), root, self._pool.page_size
        most = len(signature) - 1
        while self._enabled and (len(found.pages) + 1) * size <= most:
            start = len(found.pages) * size
            following = _key(key, signature[start : start + size])
            page = self._pages.get(following)
            if page is None:
                break
            self._pool.share(page)
            found.pages.append(page)
            key = following
        start = len(found.pages) * size
        found.source, found.extra = self._longest_child(key, signature[start:most])
        if found.extra:
            self._pool.share(found.source)
        return found

    def insert(self, signature: np.ndarray, pages: list[int], ready: bool, root: bytes = b"") -> None:
        """Notes what the pages of a sequence hold: int64[n], the last page perhaps in part."""
        key, size = root, self._pool.page_size
        for index, page in enumerate(pages):
            positions = signature[index * size : (index + 1) * size]
            if not self._enabled or not len(positions):
                return
            following = _key(key, positions)
            node = self._nodes.get(page)
            if node is not None and node.key == following:
                node.ready |= ready
            elif following not in self._pages:
                self._add(page, _Node(following, key, positions.copy(), ready))
            key = following

    def forget(self, page: int) -> None:
        """A page is about to hold something else."""
        node = self._nodes.pop(page, None)
        if node is None:
            return
        del self._pages[node.key]
        siblings = self._children[node.parent]
        del siblings[page]
        if not siblings:
            del self._children[node.parent]

    def clear(self) -> None:
        """Forgets everything."""
        for page in list(self._nodes):
            self.forget(page)

    def _add(self, page: int, node: _Node) -> None:
        self.forget(page)
        self._nodes[page] = node
        self._pages[node.key] = page
        self._children.setdefault(node.parent, {})[page] = None

    def _longest_child(self, key: bytes, wanted: np.ndarray) -> tuple[int, int]:
        """Of the pages behind a key, the one that agrees longest with int64[n], and how long."""
        best, length = -1, 0
        if not self._enabled or not len(wanted):
            return best, length
        first, most = wanted[0], min(len(wanted), self._pool.page_size)
        for page in list(self._children.get(key, ()))[: -_MOST_COMPARED - 1 : -1]:
            node = self._nodes[page]
            if not node.ready or node.positions[0] != first:
                continue
            common = common_length(node.positions, wanted)
            if common > length:
                best, length = page, common
            if length == most:  # none agrees longer
                break
        return best, length


def _key(before: bytes, positions: np.ndarray) -> bytes:
    return hashlib.blake2b(before + positions.tobytes(), digest_size=16).digest()


def common_length(one: np.ndarray, other: np.ndarray) -> int:
    """Length of the common beginning."""
    shortest = min(len(one), len(other))
    different = one[:shortest] != other[:shortest]
    first = int(different.argmax()) if shortest else 0
    return first if shortest and different[first] else shortest
