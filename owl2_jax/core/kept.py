"""What a process that does one run after another keeps for the next one: compiled programs, read samples.

Nothing is kept unless `keep` was called, as in the processes of `owl2 sweep --jobs`: a process of one
run has no use for it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar, cast

T = TypeVar("T")

MOST: Final = 64  # things; the one that was not asked for longest goes first
_things: OrderedDict[Hashable, Any] | None = None
_turn = threading.Lock()


def keep() -> None:
    """From now on, `kept` keeps."""
    global _things
    if _things is None:
        _things = OrderedDict()


def forget() -> None:
    """Drops everything, and keeps nothing from now on."""
    global _things
    _things = None


def keeps() -> bool:
    """Whether `keep` was called: a key that takes work is not needed without."""
    return _things is not None


def kept(key: Hashable, make: Callable[[], T]) -> T:
    """What an earlier call with an equal key made, or else what `make` makes now.

    Args:
      key: all that the result depends on, begun with a word for what it is.
    """
    if _things is None:
        return make()
    with _turn:
        if key not in _things:
            _things[key] = make()
        _things.move_to_end(key)
        while len(_things) > MOST:
            _things.popitem(last=False)
        return cast(T, _things[key])
