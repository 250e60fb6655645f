"""Being asked to stop: the running step ends, the run saves, then it stops."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final

import jax

Handler = Callable[[int, FrameType | None], Any] | int | None  # what `signal.signal` gives back

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class StopRequests:
    """Catches SIGTERM and Ctrl-C while it is entered; a second one acts at once.

    With several processes the notice of a preemption goes to one of them, and
    all must stop after the same step: JAX's preemption service agrees on it,
    and catches SIGTERM itself.

    Attributes:
      signal: what asked to stop; None when nothing did.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._old: dict[int, Handler] = {}

    def __enter__(self) -> StopRequests:
        if jax.process_count() == 1:
            for number in _SIGNALS:
                try:
                    self._old[number] = signal.signal(number, self._receive)
                except ValueError:  # not in the main thread: whoever runs us there handles signals
                    break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, self._old[number])

    def reached(self, step: int) -> bool:
        """Whether the run stops after `step`; every process asks once per step."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(step):
                self.signal = signal.SIGTERM
        return self.signal is not None
