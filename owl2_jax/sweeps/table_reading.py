"""Reads a table.csv back, also one of an earlier version."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.large_objects import opened
from owl2_jax.sweeps.differences import Difference, corrected, unpaired

Cells = dict[str, str]


def read_rows(path: Path) -> list[Cells]:
    """{column: text} of every point. Raises `Owl2Error` when the file is no table of a sweep."""
    try:
        with opened(path) as file:
            rows = list(csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Owl2Error(f"{path} cannot be read ({error}); give the table.csv of a sweep") from None
    if not rows or not {"point", "seeds"} <= set(rows[0]):
        raise Owl2Error(f"{path} is no table.csv of a sweep: it has no rows, or no columns point and seeds")
    if any(None in row or None in row.values() for row in rows):
        raise Owl2Error(f"{path} is damaged: a row has more or fewer cells than columns; collect it again")
    return rows


def number(path: Path, row: Cells, column: str) -> float:
    """A cell as a finite number. Raises `Owl2Error` when it is none."""
    try:
        value = float(row[column])
    except (KeyError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise Owl2Error(
            f"{path}: column {column} of point {row['point']} is {row.get(column)!r}, expected a number; "
            "collect it again"
        )
    return value


def read_differences(path: Path, measure: str) -> dict[str, Difference]:
    """{point: its difference to the base} in one measure, corrected for their number.

    A table without differences, of an earlier version, tells means and spreads
    alone: they are then taken as of seeds that are no pairs (`unpaired`), and
    its first point as the base.

    Raises:
      Owl2Error: the file is no table of a sweep, or has no such measure.
    """
    rows = read_rows(path)
    if f"{measure}_deviation" not in rows[0]:
        known = [name.removesuffix("_deviation") for name in rows[0] if name.endswith("_deviation")]
        raise unknown_name(f"measure in {path}", measure, [n for n in known if not n.endswith("_difference")])
    if f"{measure}_difference" in rows[0]:
        return {row["point"]: _read(path, row, measure) for row in rows if row[f"{measure}_difference"]}
    base, *others = rows
    told = [row for row in others if row[measure] and base[measure]]
    means = _means(path, base, measure)
    found = corrected([unpaired(means, _means(path, row, measure)) for row in told])
    return {row["point"]: one for row, one in zip(told, found, strict=True) if one is not None}


def _read(path: Path, row: Cells, measure: str) -> Difference:
    optional = {
        name: number(path, row, column) if row[column] else None
        for name, column in {
            "deviation": f"{measure}_difference_deviation",
            "low": f"{measure}_difference_low",
            "high": f"{measure}_difference_high",
            "p_corrected": f"{measure}_difference_p",
        }.items()
    }
    seeds = int(number(path, row, f"{measure}_difference_seeds"))
    return Difference(seeds, number(path, row, f"{measure}_difference"), df=seeds - 1, **optional)


def _means(path: Path, row: Cells, measure: str) -> tuple[float, float, int]:
    deviation = number(path, row, f"{measure}_deviation") if row[f"{measure}_deviation"] else 0.0
    return number(path, row, measure), deviation, int(number(path, row, "seeds"))
