"""Scores as numbers, JSON, Markdown and a table for the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_writing import write_text
from owl2_jax.core.json_files import read_json_object
from owl2_jax.evals.base import Answered, Benchmark, Summary
from owl2_jax.evals.bootstrap import interval
from owl2_jax.evals.broken import Broken

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("benchmark", "metric", "score", "95 %", "baselines", "published", "questions", "seconds")


_TOLD = 5  # broken rows of a benchmark


@dataclass(frozen=True)
class Score:
    """One benchmark's result.

    Attributes:
      value: Value of `metric`; None where a server or a judge has yet to score.
      interval: 95 % bootstrap interval of `value`.
      metrics: All metrics.
      baselines: Scores of guessing, by description.
      scale: Where the axis of a chart ends.
      left_out: Metrics that could not be computed, and why.
      broken: Rows that are in no score, as they could not be read, asked or judged.
      first_broken: The first of them, with file and row; all are in `broken.jsonl`.
    """

    benchmark: str
    title: str
    metric: str
    value: float | None
    interval: tuple[float, float] | None
    metrics: dict[str, float]
    questions: int
    seconds: float
    prompt_hash: str
    published: float | None = None
    published_note: str = ""
    baselines: dict[str, float] = field(default_factory=dict)
    scale: float = 100.0
    left_out: dict[str, str] = field(default_factory=dict)
    broken: int = 0
    first_broken: tuple[str, ...] = ()

    @property
    def broken_note(self) -> str:
        """One line about the broken rows, "" where there is none."""
        if not self.broken:
            return ""
        rows, more = "; ".join(self.first_broken), self.broken - len(self.first_broken)
        others = f"; {more} more in {self.benchmark}/broken.jsonl" if more else ""
        return f"{self.title}: broken rows, which are in no score: {self.broken}: {rows}{others}"


def make_score(
    name: str,
    benchmark: Benchmark,
    answered: Sequence[Answered],
    summary: Summary,
    seconds: float,
    broken: Sequence[Broken] = (),
) -> Score:
    """Puts a benchmark's summary together with its interval, baselines and published score."""
    value = summary.metrics.get(benchmark.metric)
    bounds = None
    if value is not None:
        known = [
            (answer, float(score))
            for answer, score in zip(answered, summary.scores, strict=True)
            if score is not None
        ]
        features = benchmark.features([answer for answer, _ in known], [score for _, score in known])
        bounds = interval(np.asarray(features), benchmark.headline)
    return Score(
        benchmark=name,
        title=benchmark.title,
        metric=benchmark.metric,
        value=value,
        interval=bounds,
        metrics=summary.metrics,
        questions=len(answered),
        seconds=round(seconds, 3),
        prompt_hash=benchmark.prompt.hash,
        published=benchmark.published,
        published_note=benchmark.published_note,
        baselines=dict(benchmark.baselines),
        scale=benchmark.scale,
        left_out={**benchmark.left_out(), **summary.left_out},
        broken=len(broken),
        first_broken=tuple(map(str, broken[:_TOLD])),
    )


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Writes scores.json, keeping entries of other benchmarks that are there already."""
    known = read_scores(path) if path.exists() else {}
    known.update({score.benchmark: score for score in scores})
    entries = {"scores": [asdict(score) for score in known.values()]}
    write_text(path, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")


def read_scores(path: Path) -> dict[str, Score]:
    """The scores of a scores.json by benchmark; raises `Owl2Error` for a damaged file."""
    try:
        entries = read_json_object(path)["scores"]
        return {entry["benchmark"]: _score(entry) for entry in entries}
    except (Owl2Error, TypeError, KeyError) as error:
        raise Owl2Error(f"{path} is not a scores file ({error}); move it away") from error


def _score(entry: dict[str, Any]) -> Score:
    bounds = entry["interval"]
    first = tuple(entry.get("first_broken", ()))
    return Score(**{**entry, "interval": None if bounds is None else tuple(bounds), "first_broken": first})


def cells(score: Score) -> tuple[str, ...]:
    """The texts of one table row, in the order of `COLUMNS`."""
    bounds = "" if score.interval is None else f"{score.interval[0]:.1f} - {score.interval[1]:.1f}"
    baselines = ", ".join(f"{name} {value:.1f}" for name, value in score.baselines.items())
    published = "" if score.published is None else f"{score.published:g}"
    if score.published_note:
        published = f"{published} ({score.published_note})".strip()
    value = (
        f"{score.value:.2f}" if score.value is not None else "none" if score.left_out else "not scored here"
    )
    return (
        score.title,
        score.metric,
        value,
        bounds,
        baselines,
        published,
        f"{score.questions} ({score.broken} broken)" if score.broken else str(score.questions),
        f"{score.seconds:.1f}",
    )


def markdown(scores: Iterable[Score]) -> str:
    """A Markdown table of the headline metrics, followed by the parts of each benchmark."""
    scores = list(scores)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells(score)) + " |" for score in scores]
    for score in scores:
        parts = {name: value for name, value in score.metrics.items() if name != score.metric}
        if parts:
            lines += ["", f"{score.title}: " + ", ".join(f"{name} {v:.2f}" for name, v in parts.items())]
        lines += [f"\n{score.title}, without {metric}: {why}" for metric, why in score.left_out.items()]
        lines += [f"\n{score.broken_note}"] if score.broken else []
    return "\n".join(lines) + "\n"


def table(scores: Iterable[Score]) -> Table:
    """A `rich.table.Table` for the terminal, without columns that nothing stands in."""
    from rich.table import Table

    rows = [cells(score) for score in scores]
    grid = Table(title="Evaluation")
    shown = [index for index in range(len(COLUMNS)) if any(row[index] for row in rows)]
    for index in shown:
        numeric = COLUMNS[index] in ("score", "questions", "seconds")
        grid.add_column(COLUMNS[index], justify="right" if numeric else "left")
    for row in rows:
        # One baseline a line, so that narrow terminals keep the numbers whole.
        grid.add_row(*(row[index].replace(", ", "\n") for index in shown))
    return grid
