"""A collected table as files: CSV with full precision, and Markdown for reading."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Final

from owl2_jax.core.file_writing import write_text
from owl2_jax.sweeps.collect import Row, Spread, Table
from owl2_jax.sweeps.differences import Difference
from owl2_jax.sweeps.power import seen_table

_GIB: Final = 2.0**30
# Of every measure: over how many seeds, the mean, its interval, the deviation and the corrected p.
DIFFERENCE_COLUMNS: Final = (
    "difference_seeds", "difference", "difference_low", "difference_high", "difference_deviation",
    "difference_p",
)  # fmt: skip


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
    found = {name: table.differences(name) for name in table.measures}
    compared = [f"{name}_{column}" for name in found for column in DIFFERENCE_COLUMNS]
    writer.writerow(
        ["point", *table.axes, "seeds", *names, "loss", "loss_deviation", "heldout_loss",
         "heldout_loss_deviation", "tokens_per_image", "flops_per_sample", "memory_per_chip_bytes",
         "training_seconds", "training_seconds_deviation", "base", "stopped", *compared,
         *(f"{name}_sampled" for name in table.benchmarks)]
    )  # fmt: skip
    for row in table.rows:
        scores = [cell for name in measures for cell in _pair(row.measure(name))]
        writer.writerow(
            [row.point, *(row.labels[axis] for axis in table.axes), row.seeds, *scores, *_pair(row.loss),
             *_pair(row.heldout_loss), row.tokens_per_image, _empty(row.flops_per_sample),
             _empty(row.memory_per_chip), *_pair(row.seconds), table.base,
             table.stopped.get(row.point, ""),
             *(cell for one in found.values() for cell in _difference_cells(one.get(row.point))),
             *(_sampled(row, name) for name in table.benchmarks)]
        )  # fmt: skip
    return stream.getvalue()


def _sampled(row: Row, benchmark: str) -> float | str:
    """Deviation of a seed's score by its questions alone; empty where that is not known."""
    found = row.answers.get(benchmark)
    variance = None if found is None else found.sampled()
    return "" if variance is None else math.sqrt(variance)


def _difference_cells(one: Difference | None) -> list[float | str]:
    """The cells of `DIFFERENCE_COLUMNS`; empty for the base."""
    if one is None:
        return [""] * len(DIFFERENCE_COLUMNS)
    cells = (one.seeds, one.mean, one.low, one.high, one.deviation, one.p_corrected)
    return [_empty(cell) for cell in cells]


def _pair(spread: Spread | None) -> tuple[float | str, float | str]:
    return ("", "") if spread is None else (spread.mean, _empty(spread.deviation))


def _empty(value: float | None) -> float | str:
    return "" if value is None else value


def markdown(table: Table) -> str:
    """The table as Markdown; spreads as "mean ± deviation", columns without any figure left out."""
    columns: dict[str, list[str]] = {"point": [row.point for row in table.rows]}
    for axis in table.axes:
        columns[axis] = [row.labels[axis] for row in table.rows]
    columns["seeds"] = [str(row.seeds) for row in table.rows]
    for name, (title, metric) in table.benchmarks.items():
        columns[f"{title} ({metric})"] = [_text(row.scores[name], 1) for row in table.rows]
        columns[f"{title}: difference to {table.base}"] = difference_texts(table, name)
    columns["loss"] = [_text(row.loss, 3) for row in table.rows]
    columns["held-out loss"] = [_text(row.heldout_loss, 3) for row in table.rows]
    columns["tokens per image"] = [str(row.tokens_per_image) for row in table.rows]
    columns["GFLOP per sample"] = [_scaled(row.flops_per_sample, 1e9) for row in table.rows]
    columns["GiB per chip"] = [_scaled(row.memory_per_chip, _GIB) for row in table.rows]
    columns["halving"] = [table.stopped.get(row.point, "") for row in table.rows]
    columns["training, s"] = [_text(row.seconds, 0) for row in table.rows]
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    lines = [f"| {' | '.join(shown)} |", "|" + " --- |" * len(shown)]
    lines += [f"| {' | '.join(cells)} |" for cells in zip(*shown.values(), strict=True)]
    if len(table.rows) > 1:
        lines += ["", *_notes(table)]
    if table.missing:
        lines += ["", "Not finished:", ""]
        lines += [f"- {name} {what}" for name, what in table.missing.items()]
    return "\n".join(lines) + "\n"


def difference_texts(table: Table, measure: str) -> list[str]:
    """A text per row: the difference to the base, that none is seen, or why nothing is told."""
    found = table.differences(measure)
    if not found:
        return ["" for _ in table.rows]
    return [
        "" if row.point == table.base
        else found[row.point].text() if row.point in found
        else "no seed in common"
        for row in table.rows
    ]  # fmt: skip


def _notes(table: Table) -> list[str]:
    """What the differences are, and what they could see."""
    if all(row.point != table.base for row in table.rows):
        return [
            f"No differences: no run of the point {table.base}, which all are compared with, is finished."
        ]
    lines = [
        f"Differences are to {table.base}, of the same seeds, with the interval of a t-test over the seeds. "
        "Among all comparisons of a column, even one false difference is called one time in 20 at most "
        "(Holm); the intervals agree with that."
    ]
    shown = {row.point for row in table.rows}
    for reasons in dict.fromkeys(table.unpaired.values()):
        points = [point for point, why in table.unpaired.items() if why == reasons and point in shown]
        if points:
            lines += ["", f"Seeds of {', '.join(points)} and {table.base} are no full pairs: they differ in "
                          f"{', '.join(reasons)}."]  # fmt: skip
    return [*lines, *seen_table(table)]


def _text(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return ""
    mean = f"{spread.mean:.{digits}f}"
    return mean if spread.deviation is None else f"{mean} ± {spread.deviation:.{digits}f}"


def _scaled(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:.3g}"
