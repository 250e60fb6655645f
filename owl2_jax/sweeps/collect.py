"""Finished runs to one table: a row per point, with the spread over its seeds."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.text_files import json_lines, write_text
from owl2_jax.sweeps.costs import step_flops
from owl2_jax.sweeps.folder import RunFolder, SweepFolder, read_json
from owl2_jax.sweeps.grid import Run, Sweep

_METRICS: Final = "metrics.jsonl"
_GIB: Final = 2.0**30


@dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Attributes:
      mean: over the seeds.
      deviation: sample standard deviation; None for one seed.
    """

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Training:
    """What `metrics.jsonl` of one run says.

    Attributes:
      loss: of the training data, over the last reading.
      heldout_loss: of the last reading that has one.
      seconds: of all steps, without starts, compilation and evaluation.
      samples_per_step: mean over all steps.
    """

    loss: float
    heldout_loss: float | None
    seconds: float
    samples_per_step: float


@dataclass(frozen=True)
class Row:
    """One point of the table.

    Attributes:
      labels: {axis: label}.
      seeds: how many runs are in it.
      scores: {benchmark: percent or what its metric is}.
      parts: {"benchmark/part": the same for a kind of its questions}.
      tokens_per_image: in the decoder, the end token included.
      flops_per_sample: model FLOPs of a step, forward and backward, by the
        samples that its packed rows held; None for a step without samples.
      memory_per_chip: bytes, from `owl2 fit`; None when it was not asked.
      seconds: training time of a run.
    """

    point: str
    labels: dict[str, str]
    seeds: int
    scores: dict[str, Spread]
    parts: dict[str, Spread]
    loss: Spread
    heldout_loss: Spread | None
    tokens_per_image: int
    flops_per_sample: float | None
    memory_per_chip: float | None
    seconds: Spread

    def measure(self, name: str) -> Spread:
        """A benchmark's score, or that of one of its parts."""
        return self.scores[name] if name in self.scores else self.parts[name]


@dataclass(frozen=True)
class Table:
    """What was collected.

    Attributes:
      axes: names of the grid's axes.
      benchmarks: {name: (title, metric)}.
      missing: {run that is not finished: what it lacks}.
    """

    name: str
    axes: tuple[str, ...]
    benchmarks: dict[str, tuple[str, str]]
    rows: list[Row]
    missing: dict[str, str]

    @property
    def parts(self) -> list[str]:
        """Names of the parts that every row has."""
        return [name for name in self.rows[0].parts if all(name in row.parts for row in self.rows)]

    def title(self, name: str) -> tuple[str, str]:
        """Title and metric of a benchmark or of one of its parts."""
        benchmark, _, part = name.partition("/")
        title, metric = self.benchmarks[benchmark]
        return (f"{title}: {part.replace('_', ' ')}" if part else title), metric


def collect(sweep: Sweep, folder: SweepFolder) -> Table:
    """Reads all finished runs; nothing is computed on a device.

    Raises:
      Owl2Error: no run is finished, or a finished one lacks a score.
    """
    names = sweep.config.benchmarks
    lacks = {run.name: folder.run(run).lacks(sweep.run_config(run), names) for run in sweep.runs}
    missing = {name: what for name, what in lacks.items() if what is not None}
    if len(missing) == len(lacks):
        name, what = next(iter(missing.items()))
        raise Owl2Error(
            f"no run in {folder.path} is finished ({name} {what}); `owl2 sweep {sweep.location} "
            f"--workdir={folder.path}` goes on with them"
        )
    titles: dict[str, tuple[str, str]] = {}
    rows = []
    for point in sweep.points:
        runs = [Run(point, seed) for seed in sweep.config.seeds]
        finished = [run for run in runs if run.name not in missing]
        if finished:
            rows.append(_row(sweep, folder, finished, titles))
    return Table(sweep.name, tuple(sweep.config.axes), titles, rows, missing)


def _row(sweep: Sweep, folder: SweepFolder, runs: list[Run], titles: dict[str, tuple[str, str]]) -> Row:
    point, config = runs[0].point, sweep.run_config(runs[0])
    trainings = [read_training(folder.run(run)) for run in runs]
    scores = [_scores(sweep, folder, run, titles) for run in runs]
    heldout = [t.heldout_loss for t in trainings if t.heldout_loss is not None]
    samples = statistics.fmean(t.samples_per_step for t in trainings)
    fit = read_json(folder.fit(point))
    return Row(
        point=point.name,
        labels=point.labels,
        seeds=len(runs),
        scores={name: Spread.of([one[name] for one in scores]) for name in sweep.config.benchmarks},
        parts=_parts([folder.run(run).read_scores() for run in runs]),
        loss=Spread.of([t.loss for t in trainings]),
        heldout_loss=Spread.of(heldout) if heldout else None,
        tokens_per_image=config.model.tokens_per_image,
        flops_per_sample=step_flops(config) / samples if samples else None,
        memory_per_chip=None if fit is None else float(fit["memory"]["needed"]),
        seconds=Spread.of([t.seconds for t in trainings]),
    )


def read_training(files: RunFolder) -> Training:
    """Sums up a run's readings. Raises `Owl2Error` when there are none."""
    path = files.training / _METRICS
    try:
        lines = [line for _, line in json_lines(path) if line.get("loss") is not None]
        steps = [line["step"] - before for line, before in zip(lines, _before(lines), strict=True)]
        seconds = [count * line["seconds_per_step"] for count, line in zip(steps, lines, strict=True)]
        samples = [time * line["samples_per_second"] for time, line in zip(seconds, lines, strict=True)]
        heldout = [line["heldout/loss"] for line in lines if line.get("heldout/loss") is not None]
        return Training(
            loss=lines[-1]["loss"],
            heldout_loss=heldout[-1] if heldout else None,
            seconds=math.fsum(seconds),
            samples_per_step=math.fsum(samples) / sum(steps),
        )
    except (Owl2Error, ValueError, KeyError, IndexError, AttributeError, TypeError, ArithmeticError) as error:
        raise Owl2Error(
            f"{path} holds no readings ({type(error).__name__}: {error}); delete {files.path} and run the "
            "sweep again"
        ) from None


def _before(lines: Sequence[dict[str, Any]]) -> Iterable[int]:
    return [0, *(line["step"] for line in lines[:-1])]


def _scores(
    sweep: Sweep, folder: SweepFolder, run: Run, titles: dict[str, tuple[str, str]]
) -> dict[str, float]:
    """{benchmark: score} of a finished run. Raises `Owl2Error` for one that a judge has yet to give."""
    entries, found = folder.run(run).read_scores(), {}
    for name in sweep.config.benchmarks:
        entry = entries[name]
        if entry["value"] is None:
            raise Owl2Error(
                f"run {run.name} has no score for {name}: a judge or a server gives it. Give the "
                f"judgements to `owl2 evaluate --judgements` with --output={folder.run(run).scores}, or "
                f"take {name} out of the sweep's benchmarks"
            )
        titles[name] = (entry["title"], entry["metric"])
        found[name] = float(entry["value"])
    return found


def _parts(runs: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Spread]:
    """Spreads of all metrics but the headline ones that every run has."""
    each = [
        {
            f"{name}/{part}": float(value)
            for name, entry in entries.items()
            for part, value in entry.get("metrics", {}).items()
            if part != entry["metric"]
        }
        for entries in runs
    ]
    return {
        name: Spread.of([one[name] for one in each]) for name in each[0] if all(name in one for one in each)
    }


def write_table(table: Table, folder: Path) -> list[Path]:
    """Writes table.csv (full precision) and table.md (for reading); returns their paths."""
    paths = [folder / "table.csv", folder / "table.md"]
    for path, text in zip(paths, (_csv(table), markdown(table)), strict=True):
        write_text(path, text)
    return paths


def _csv(table: Table) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    measures = [*table.benchmarks, *table.parts]
    names = [column for name in measures for column in (name, f"{name}_deviation")]
    writer.writerow(
        ["point", *table.axes, "seeds", *names, "loss", "loss_deviation", "heldout_loss",
         "heldout_loss_deviation", "tokens_per_image", "flops_per_sample", "memory_per_chip_bytes",
         "training_seconds", "training_seconds_deviation"]
    )  # fmt: skip
    for row in table.rows:
        scores = [cell for name in measures for cell in _pair(row.measure(name))]
        writer.writerow(
            [row.point, *(row.labels[axis] for axis in table.axes), row.seeds, *scores, *_pair(row.loss),
             *_pair(row.heldout_loss), row.tokens_per_image, _empty(row.flops_per_sample),
             _empty(row.memory_per_chip), *_pair(row.seconds)]
        )  # fmt: skip
    return stream.getvalue()


def _pair(spread: Spread | None) -> tuple[Any, Any]:
    return ("", "") if spread is None else (spread.mean, _empty(spread.deviation))


def _empty(value: float | None) -> Any:
    return "" if value is None else value


def markdown(table: Table) -> str:
    """The table as Markdown; spreads as "mean ± deviation", columns without any figure left out."""
    columns: dict[str, list[str]] = {"point": [row.point for row in table.rows]}
    for axis in table.axes:
        columns[axis] = [row.labels[axis] for row in table.rows]
    columns["seeds"] = [str(row.seeds) for row in table.rows]
    for name, (title, metric) in table.benchmarks.items():
        columns[f"{title} ({metric})"] = [_text(row.scores[name], 1) for row in table.rows]
    columns["loss"] = [_text(row.loss, 3) for row in table.rows]
    columns["held-out loss"] = [_text(row.heldout_loss, 3) for row in table.rows]
    columns["tokens per image"] = [str(row.tokens_per_image) for row in table.rows]
    columns["GFLOP per sample"] = [_scaled(row.flops_per_sample, 1e9) for row in table.rows]
    columns["GiB per chip"] = [_scaled(row.memory_per_chip, _GIB) for row in table.rows]
    columns["training, s"] = [_text(row.seconds, 0) for row in table.rows]
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    lines = [f"| {' | '.join(shown)} |", "|" + " --- |" * len(shown)]
    lines += [f"| {' | '.join(cells)} |" for cells in zip(*shown.values(), strict=True)]
    if table.missing:
        lines += ["", "Not finished:", ""]
        lines += [f"- {name} {what}" for name, what in table.missing.items()]
    return "\n".join(lines) + "\n"


def _text(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return ""
    mean = f"{spread.mean:.{digits}f}"
    return mean if spread.deviation is None else f"{mean} ± {spread.deviation:.{digits}f}"


def _scaled(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:.3g}"
