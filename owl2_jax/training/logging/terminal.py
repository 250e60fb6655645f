"""What a run shows: the table of groups, a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

# Without a terminal a table is as wide as it needs, so that logs keep names whole.
_LOG_WIDTH = 120


def console() -> Console:
    """Standard output; wide enough for tables when it is no terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=_LOG_WIDTH)


class TerminalProgress:
    """A bar that moves with every step on a terminal; a line per reading elsewhere.

    Args:
      title: what stands in front.
      total: steps of the run.
      done: steps taken before this start.
      quiet: show nothing, for all hosts but the first.
    """

    def __init__(self, title: str, total: int, done: int, quiet: bool = False) -> None:
        self._console, self._title, self._total, self._quiet = console(), title, total, quiet
        self._is_bar = self._console.is_terminal and not quiet
        self._start, self._done = time.perf_counter(), done
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._is_bar,
            refresh_per_second=4,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, text="")
        self._bar.start()

    def advance(self, step: int) -> None:
        """Moves the bar."""
        if self._is_bar:
            self._bar.update(self._task, completed=step)

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Shows loss, accuracy, speed and time left."""
        text = (
            f"loss {values['loss']:.4f}  accuracy {values['accuracy']:.3f}  "
            f"{values['tokens_per_second']:,.0f} tokens/s"
        )
        if self._is_bar:
            self._bar.update(self._task, completed=step, text=text)
        else:
            left = _duration((self._total - step) * values["seconds_per_step"])
            self.say(f"{self._title} {step}/{self._total}  {text}  {left} left")

    def say(self, line: str) -> None:
        """Prints a line, above the bar where there is one."""
        if self._is_bar:
            self._bar.console.print(line, highlight=False, markup=False)
        elif not self._quiet:
            print(line, flush=True)

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.stop()


def _duration(seconds: float) -> str:
    """Seconds as "45 s", "3 min 20 s" or "2 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def print_groups(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the table of `groups.table`."""
    table = Table(title="What this run trains", title_justify="left")
    for name in ("group", "leaves", "parameters", "learning rate", "weight decay", "optimiser state"):
        table.add_column(name, justify="left" if name == "group" else "right")
    for row in rows:
        table.add_row(
            row["group"],
            str(row["leaves"]),
            f"{row['parameters']:,}",
            _rate(row["lr"]),
            f"{row['weight_decay']:g}" if row["lr"] else "",
            f"{row['state_bytes'] / 2**20:,.1f} MiB",
        )
    console().print(table)


def _rate(span: tuple[float, float] | None) -> str:
    if span is None:
        return "frozen"
    low, high = span
    return f"{high:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
