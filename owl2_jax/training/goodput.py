"""Where the wall time of a run goes, over all its starts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

# What a run waits for besides its steps. Compiling and evaluating are no part
# of a step's duration; waiting for data and for saves is.
DATA_WAIT: Final = "data_wait"
SAVE: Final = "save"
COMPILE: Final = "compile"
EVALUATE: Final = "evaluate"
_BESIDE_STEPS: Final = (COMPILE, EVALUATE)


class Window(NamedTuple):
    """The time between two readings.

    Attributes:
      seconds: of its steps.
      shares: `data_wait` and `save` as shares of them, `goodput` (share of all
        time so far that trained) and `elapsed_seconds`.
    """

    seconds: float
    shares: dict[str, float]


class GoodputClock:
    """Splits the time between readings into parts, and adds up how much of it trained.

    Args:
      elapsed: seconds of earlier starts.
      productive: seconds of them in steps that still count.
      started: when this start began, by `time.perf_counter`; what lies between
        it and now (restoring, compiling) is elapsed and part of no reading.
    """

    def __init__(self, elapsed: float = 0.0, productive: float = 0.0, started: float | None = None) -> None:
        self._mark = time.perf_counter()
        self._start = self._mark if started is None else started
        self._earlier, self._productive = elapsed, productive
        self._parts: dict[str, float] = {}

    @classmethod
    def resume(cls, readings: Sequence[Mapping[str, Any]], step: int, started: float) -> GoodputClock:
        """Goes on from `metrics.jsonl`: time after the resumed step was spent and is lost."""
        elapsed = max((line.get("elapsed_seconds") or 0.0 for line in readings), default=0.0)
        kept = [line for line in readings if line["step"] <= step]
        productive = kept[-1].get("goodput", 0.0) * kept[-1].get("elapsed_seconds", 0.0) if kept else 0.0
        return cls(elapsed, productive, started)

    def add(self, part: str, seconds: float) -> None:
        """Counts seconds under a part of the run."""
        self._parts[part] = self._parts.get(part, 0.0) + seconds

    @contextlib.contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Counts the time of a block as `part`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(part, time.perf_counter() - start)

    def read(self) -> Window:
        """Closes a window, and begins the next."""
        now = time.perf_counter()
        seconds = now - self._mark - sum(self._parts.get(part, 0.0) for part in _BESIDE_STEPS)
        waits = {part: self._parts.get(part, 0.0) for part in (DATA_WAIT, SAVE)}
        self._mark, self._parts = now, {}
        self._productive += max(seconds - sum(waits.values()), 0.0)
        elapsed = self._earlier + now - self._start
        shares = {part: wait / max(seconds, 1e-9) for part, wait in waits.items()}
        goodput = self._productive / elapsed
        return Window(seconds, {**shares, "goodput": goodput, "elapsed_seconds": elapsed})
