"""Saves that fail: each is told, and only too many in a row end a run.

What fails on one host has failed on all: they save together and must do the same about it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from owl2_jax.core.errors import Owl2Error
from owl2_jax.parallel.multihost import any_trouble

_log = logging.getLogger(__name__)
# How Orbax's log words what fails in a thread of its own.
_OF_SAVES: Final = ("background save thread", "Save Finalize thread")


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


class SaveFailure(logging.Filter):
    """Sees in Orbax's log what failed in the thread of a save, and keeps its traceback from the user.

    Orbax tells of it once all hosts came to its next barrier, where the others would wait for this one.

    Attributes:
      error: the first one; None for none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """False for the record of such a failure."""
        if not record.exc_info or not any(words in record.getMessage() for words in _OF_SAVES):
            return True
        self.error = self.error or record.exc_info[1]
        return False
