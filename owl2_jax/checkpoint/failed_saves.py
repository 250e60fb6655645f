"""Saves that fail: each is told, and only too many in a row end a run.

What fails on one host has failed on all: they save together and must do the same about it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from owl2_jax.core.errors import Owl2Error
from owl2_jax.parallel.multihost import any_trouble

_log = logging.getLogger(__name__)


class FailedSaves:
    """Counts failures in a row, of saves of one kind; the same on every process.

    Args:
      may_fail: so many of them end nothing.
    """

    def __init__(self, may_fail: int) -> None:
        self._may_fail, self._failed = may_fail, 0

    def tolerated(self, action: Callable[[], object], last: bool = False) -> bool:
        """Runs `action`, on every process; returns whether it went well on all.

        Args:
          last: nothing comes after it that could be tried instead.

        Raises:
          Owl2Error: what `action` raised on any process, where no more may fail.
        """
        own = None
        try:
            action()
        except Owl2Error as error:
            own = error
        trouble = any_trouble(str(own or ""))
        if not trouble:
            return True
        self._failed += 1
        if last or self._failed > self._may_fail:
            raise Owl2Error(trouble) from own
        left = self._may_fail - self._failed
        _log.warning("%s. The run goes on; %s more in a row may fail", trouble, left or "no")
        return False

    @property
    def any(self) -> bool:
        """Whether the last one failed."""
        return self._failed > 0

    def went_well(self) -> None:
        """Counts from zero."""
        self._failed = 0
