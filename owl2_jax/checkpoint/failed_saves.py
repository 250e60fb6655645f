"""Saves that fail: each is told, and only too many in a row end a run."""

from __future__ import annotations

import logging
from collections.abc import Callable

from owl2_jax.core.errors import Owl2Error

_log = logging.getLogger(__name__)


class FailedSaves:
    """Counts failures in a row.

    Args:
      may_fail: so many of them end nothing.
    """

    def __init__(self, may_fail: int) -> None:
        self._may_fail, self._failed = may_fail, 0

    def tolerated(self, action: Callable[[], object], last: bool = False) -> bool:
        """Runs `action`; returns whether it went well.

        Args:
          last: nothing comes after it that could be tried instead.

        Raises:
          Owl2Error: what `action` raised, where no more may fail.
        """
        try:
            action()
        except Owl2Error as error:
            self._failed += 1
            if last or self._failed > self._may_fail:
                raise
            left = self._may_fail - self._failed
            _log.warning("%s. The run goes on; %s more in a row may fail", error, left or "no")
            return False
        return True

    @property
    def any(self) -> bool:
        """Whether the last one failed."""
        return self._failed > 0

    def went_well(self) -> None:
        """Counts anew."""
        self._failed = 0
