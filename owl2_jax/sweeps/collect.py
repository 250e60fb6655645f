"""Finished runs to one table: a row per point, with the spread over its seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.json_files import json_lines
from owl2_jax.sweeps.claims import HELDOUT_LOSS, LOSS
from owl2_jax.sweeps.costs import step_flops
from owl2_jax.sweeps.differences import Difference, corrected, paired
from owl2_jax.sweeps.folder import RunFolder, SweepFolder, read_json
from owl2_jax.sweeps.grid import Run, Sweep
from owl2_jax.sweeps.pairing import unlike_base
from owl2_jax.sweeps.sampling import Answers, answers_of
from owl2_jax.sweeps.stops import read_stops

_METRICS: Final = "metrics.jsonl"


@dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Attributes:
      mean: over the seeds.
      deviation: sample standard deviation; None for one seed.
      by_seed: {seed: value}.
    """

    mean: float
    deviation: float | None
    by_seed: dict[int, float]

    @classmethod
    def of(cls, by_seed: dict[int, float]) -> Spread:
        """Mean and standard deviation of {seed: score}; no deviation of a single one."""
        values = list(by_seed.values())
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, by_seed)


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
      answers: {benchmark: the score of every question}; without those whose
        score is no mean over their questions.
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
    answers: dict[str, Answers] = field(default_factory=dict)

    def measure(self, name: str) -> Spread:
        """A benchmark's score, or that of one of its parts; "loss" or "heldout_loss"."""
        return self._measures()[name]

    def has(self, name: str) -> bool:
        """Whether all its runs have the measure."""
        return name in self._measures()

    @property
    def names(self) -> list[str]:
        """All measures that it has."""
        return list(self._measures())

    def _measures(self) -> dict[str, Spread]:
        heldout = {} if self.heldout_loss is None else {HELDOUT_LOSS: self.heldout_loss}
        return {LOSS: self.loss, **heldout, **self.parts, **self.scores}


@dataclass(frozen=True)
class Table:
    """What was collected.

    Attributes:
      axes: names of the grid's axes.
      base: the point that the others are compared with.
      benchmarks: {name: (title, metric)}.
      missing: {run that is not finished: what it lacks}.
      unpaired: {point: what of the data or the start is not as in the base}.
      stopped: {point: why it got no further seeds}; their runs are not missing.
    """

    name: str
    axes: tuple[str, ...]
    base: str
    benchmarks: dict[str, tuple[str, str]]
    rows: list[Row]
    missing: dict[str, str]
    unpaired: dict[str, tuple[str, ...]]
    stopped: dict[str, str] = field(default_factory=dict)

    @property
    def measures(self) -> list[str]:
        """All that points are compared in: benchmarks, their parts, losses."""
        heldout = [HELDOUT_LOSS] if all(row.has(HELDOUT_LOSS) for row in self.rows) else []
        return [*self.benchmarks, *self.parts, LOSS, *heldout]

    def differences(self, measure: str) -> dict[str, Difference]:
        """{point: its difference to the base}, corrected for their number; none without the base."""
        base = next((row for row in self.rows if row.point == self.base), None)
        if base is None:
            return {}
        others = [row for row in self.rows if row is not base]
        found = corrected(
            [paired(base.measure(measure).by_seed, row.measure(measure).by_seed) for row in others]
        )
        return {row.point: one for row, one in zip(others, found, strict=True) if one is not None}

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
    stops = {point: stop.text() for point, stop in read_stops(folder).items()}
    titles: dict[str, tuple[str, str]] = {}
    rows = []
    for point in sweep.points:
        runs = [Run(point, seed) for seed in sweep.config.seeds]
        finished = [run for run in runs if run.name not in missing]
        if finished:
            rows.append(read_row(sweep, folder, finished, titles))
    unpaired = {point.name: reasons for point in sweep.points if (reasons := unlike_base(sweep, point))}
    short = {run.point.name for run in sweep.runs if run.name in missing}
    stops = {point: text for point, text in stops.items() if point in short}
    missing = {run.name: missing[run.name] for run in sweep.runs
               if run.name in missing and run.point.name not in stops}  # fmt: skip
    return Table(
        sweep.name, tuple(sweep.config.axes), sweep.base_point.name, titles, rows, missing, unpaired, stops
    )


def read_row(
    sweep: Sweep, folder: SweepFolder, runs: list[Run], titles: dict[str, tuple[str, str]] | None = None
) -> Row:
    """One point of the table from its finished runs.

    Args:
      titles: gets the title and metric of every benchmark.

    Raises:
      Owl2Error: a run has no readings, or lacks a score.
    """
    titles = {} if titles is None else titles
    point, config = runs[0].point, sweep.run_config(runs[0])
    trainings = {run.seed: read_training(folder.run(run)) for run in runs}
    scores = {run.seed: _scores(sweep, folder, run, titles) for run in runs}
    heldout = {seed: t.heldout_loss for seed, t in trainings.items() if t.heldout_loss is not None}
    samples = statistics.fmean(t.samples_per_step for t in trainings.values())
    fit = read_json(folder.fit(point))
    files = {run.seed: folder.run(run) for run in runs}
    answers = {
        name: answers_of(files, name, {seed: one[name] for seed, one in scores.items()})
        for name in sweep.config.benchmarks
    }
    return Row(
        point=point.name,
        labels=point.labels,
        seeds=len(runs),
        scores={
            name: Spread.of({seed: one[name] for seed, one in scores.items()})
            for name in sweep.config.benchmarks
        },
        parts=_parts({run.seed: folder.run(run).read_scores() for run in runs}),
        loss=Spread.of({seed: t.loss for seed, t in trainings.items()}),
        heldout_loss=Spread.of(heldout) if heldout else None,
        tokens_per_image=config.model.tokens_per_image,
        flops_per_sample=step_flops(config) / samples if samples else None,
        memory_per_chip=None if fit is None else float(fit["memory"]["needed"]),
        seconds=Spread.of({seed: t.seconds for seed, t in trainings.items()}),
        answers={name: found for name, found in answers.items() if found is not None},
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


def _parts(runs: dict[int, dict[str, dict[str, Any]]]) -> dict[str, Spread]:
    """Spreads of all metrics but the headline ones that every run, by its seed, has."""
    each = {
        seed: {
            f"{name}/{part}": float(value)
            for name, entry in entries.items()
            for part, value in entry.get("metrics", {}).items()
            if part != entry["metric"]
        }
        for seed, entries in runs.items()
    }
    first = next(iter(each.values()))
    return {
        name: Spread.of({seed: one[name] for seed, one in each.items()})
        for name in first
        if all(name in one for one in each.values())
    }
