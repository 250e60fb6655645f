"""Where the numbers of a run go: the terminal, a JSON-lines file, TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

METRICS_FILE = "metrics.jsonl"
EVENTS_DIR = "tensorboard"


class MetricWriter:
    """Appends scalars to `metrics.jsonl` and TensorBoard events; a resumed run leaves no line twice."""

    def __init__(self, run: Path, first_step: int) -> None:
        from tensorboardX import SummaryWriter

        self._path = run / METRICS_FILE
        if self._path.is_file():
            _drop_after(self._path, first_step)
        self._file = self._path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(run / EVENTS_DIR), purge_step=first_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._events.close()


def _drop_after(path: Path, step: int) -> None:
    """Removes lines of steps that are about to be taken again, and a line that was cut."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            break
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


class Stopwatch:
    """Wall time since the last reading, split by what it went into."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._parts: dict[str, float] = {}

    def add(self, part: str, seconds: float) -> None:
        self._parts[part] = self._parts.get(part, 0.0) + seconds

    def read(self) -> tuple[float, dict[str, float]]:
        """(seconds since the last reading, {part: its share}); starts anew."""
        now = time.perf_counter()
        elapsed, self._start = now - self._start, now
        shares = {part: seconds / elapsed for part, seconds in self._parts.items()}
        self._parts = {}
        return elapsed, shares


class TerminalProgress:
    """A bar on a terminal; a line per reading elsewhere."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self._console, self._title, self._total = Console(), title, total
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, text="")
        self._bar.start()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        text = (
            f"loss {values['loss']:.4f}  accuracy {values['accuracy']:.3f}  "
            f"{values['tokens_per_second']:,.0f} tokens/s"
        )
        self._bar.update(self._task, completed=step, text=text)
        if not self._console.is_terminal:
            left = (self._total - step) * values["seconds_per_step"]
            print(f"{self._title} {step}/{self._total}  {text}  {left:.0f} s left", flush=True)

    def close(self) -> None:
        self._bar.stop()


def print_groups(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the table of parameter groups."""
    table = Table(title="What this run trains", title_justify="left")
    for name in ("group", "leaves", "parameters", "learning rate", "weight decay", "optimiser state"):
        table.add_column(name, justify="left" if name == "group" else "right")
    for row in rows:
        table.add_row(
            row["group"],
            str(row["leaves"]),
            f"{row['parameters']:,}",
            _rate(row["lr"]),
            f"{row['weight_decay']:g}",
            f"{row['state_bytes'] / 2**20:,.1f} MiB",
        )
    Console().print(table)


def _rate(span: tuple[float, float] | None) -> str:
    if span is None:
        return "frozen"
    low, high = span
    return f"{high:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
