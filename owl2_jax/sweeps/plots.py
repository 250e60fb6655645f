"""Images of a sweep: score along each axis, differences with intervals, claims, score against cost.

Every image is written as PNG and as SVG.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from owl2_jax.core.buckets import remove_if_there
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.file_writing import new_file
from owl2_jax.sweeps.claims import LOSSES, terms
from owl2_jax.sweeps.claims_table import AS_CLAIMED, CONTRARY, Answer
from owl2_jax.sweeps.collect import Row, Table
from owl2_jax.sweeps.differences import Difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FORMATS: Final = ("png", "svg")
_COLOURS: Final = ("#2b6cb0", "#dd6b20", "#276749", "#b83280", "#4a5568", "#975a16")
_PARETO: Final = "#1a202c"


def write_plots(table: Table, folder: Path, parts: Sequence[str] = ()) -> list[Path]:
    """Draws every benchmark along every axis, as differences, and against FLOPs; returns the paths.

    Args:
      parts: "benchmark/part", drawn as well.

    Raises:
      Owl2Error: matplotlib is missing, or the table has no such part.
    """
    _matplotlib()
    for name in parts:
        if name not in table.parts:
            raise unknown_name("part of a benchmark in this table", name, table.parts)
    written = []
    for name in (*table.benchmarks, *parts):
        stem = name.replace("/", "_")
        for axis in table.axes:
            written += _write(folder / f"{stem}_by_{axis}", _axis_figure(table, name, axis))
        if any(one.low is not None for one in table.differences(name).values()):
            written += _write(folder / f"{stem}_differences", _difference_figure(table, name))
        costly = [row for row in table.rows if row.flops_per_sample]
        if costly:
            written += _write(folder / f"{stem}_by_cost", _cost_figure(table, name, costly))
    return written


def write_claims_plot(found: Sequence[Answer], folder: Path) -> list[Path]:
    """Draws the differences that answer the claims, but those in loss; returns the paths.

    Without any, drawings of an earlier collection are removed.

    Raises:
      Owl2Error: matplotlib is missing.
    """
    told = [one for one in found if one.difference is not None and terms(one.measure)[0] not in LOSSES]
    if told:
        return _write(folder / "claims", _claims_figure(told))
    for ending in _FORMATS:
        remove_if_there(folder / f"claims.{ending}")
    return []


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, score) that none beats in both, by rising cost."""
    best, kept = float("-inf"), []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best:
            best = points[index][1]
            kept.append(index)
    return kept


def series(table: Table, axis: str) -> Iterator[tuple[str, list[Row]]]:
    """Rows that differ in one axis alone, by what the other axes are.

    The first value of every other axis comes first, and groups of a single row
    are left out, unless all are.
    """
    groups: dict[str, list[Row]] = {}
    for row in table.rows:
        others = ", ".join(f"{name} {row.labels[name]}" for name in table.axes if name != axis)
        groups.setdefault(others, []).append(row)
    several = {others: rows for others, rows in groups.items() if len(rows) > 1}
    yield from (several or groups).items()


def _axis_figure(table: Table, benchmark: str, axis: str) -> Figure:
    figure, axes = _figure()
    labels = list(dict.fromkeys(row.labels[axis] for row in table.rows))
    is_number = all(_is_number(label) for label in labels)
    groups = list(series(table, axis))
    for number, (others, rows) in enumerate(groups):
        rows = sorted(rows, key=lambda row: float(row.labels[axis])) if is_number else rows
        places = [float(r.labels[axis]) if is_number else labels.index(r.labels[axis]) for r in rows]
        _draw_spread(axes, places, rows, benchmark, _COLOURS[number % len(_COLOURS)], others, is_number)
    if is_number:
        if min(map(float, labels)) > 0:
            axes.set_xscale("log", base=2)
        axes.set_xticks([float(label) for label in labels], labels)
        axes.minorticks_off()
    else:
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_xlabel(axis.replace("_", " "))
    _finish(axes, table, benchmark, legend=len(groups) > 1)
    return figure


def _draw_spread(
    axes: Axes, places: list[float], rows: list[Row], benchmark: str, colour: str, label: str, line: bool
) -> None:
    """Means with the deviation over seeds as bars; joined when the axis is a scale."""
    spreads = [row.measure(benchmark) for row in rows]
    axes.errorbar(
        places, [s.mean for s in spreads], [s.deviation or 0.0 for s in spreads], fmt="o-" if line else "o",
        color=colour, capsize=3, markersize=5, linewidth=1.3, label=label,
    )  # fmt: skip


def _cost_figure(table: Table, benchmark: str, rows: list[Row]) -> Figure:
    figure, axes = _figure()
    points = [(row.flops_per_sample / 1e9, row.measure(benchmark).mean) for row in rows]  # type: ignore[operator]
    deviations = [row.measure(benchmark).deviation or 0.0 for row in rows]
    axes.errorbar(*zip(*points, strict=True), deviations, fmt="o", color=_COLOURS[0], capsize=3, markersize=5)
    front = [points[index] for index in pareto(points)]
    axes.plot(*zip(*front, strict=True), "--", color=_PARETO, linewidth=1, label="Pareto line")
    for row, (cost, score) in zip(rows, points, strict=True):
        axes.annotate(row.point, (cost, score), xytext=(5, 4), textcoords="offset points", fontsize=7)
    axes.set_xlabel("GFLOP per training sample, forward and backward")
    axes.margins(x=0.15)
    _finish(axes, table, benchmark, legend=True)
    return figure


def _difference_figure(table: Table, benchmark: str) -> Figure:
    """A line per point: the difference to the base and its interval; hollow where none is seen."""
    found = table.differences(benchmark)
    title, metric = table.title(benchmark)
    figure, axes = _figure(height=max(1.8, 1.1 + 0.22 * len(found)))
    _draw_intervals(axes, [(name, one, _COLOURS[0], one.is_seen) for name, one in found.items()])
    axes.set_title(f"{title}\ndifference to {table.base}; filled: seen, hollow: not seen", fontsize=9)
    axes.set_xlabel(f"difference in {metric}, with the interval of the paired seeds")
    return figure


def _claims_figure(found: Sequence[Answer]) -> Figure:
    """A line per measure of each claim; in another colour what is the contrary."""
    figure, axes = _figure(height=max(1.8, 1.1 + 0.22 * len(found)), width=7.8)  # long names
    lines = []
    for one in found:
        assert one.difference is not None
        colour = _COLOURS[1] if one.verdict == CONTRARY else _COLOURS[0]
        name = f"{one.claim.point} less {one.claim.than}: {one.measure}"
        lines.append((name, one.difference, colour, one.verdict in (AS_CLAIMED, CONTRARY)))
    _draw_intervals(axes, lines)
    axes.set_title("claims\nfilled: as claimed, or (orange) the contrary; hollow: not seen", fontsize=9)
    axes.set_xlabel("difference in points, with the interval of the paired seeds")
    return figure


def _draw_intervals(axes: Axes, lines: Sequence[tuple[str, Difference, str, bool]]) -> None:
    """A dot and its interval for each (name, difference, colour, filled), from above."""
    axes.axvline(0, color=_PARETO, linewidth=1)
    for place, (_, one, colour, is_filled) in enumerate(lines):
        if one.low is not None:
            axes.hlines(place, one.low, one.high, color=colour, linewidth=1.3)
        face = colour if is_filled else "white"
        axes.plot(one.mean, place, "o", markersize=5, color=colour, markerfacecolor=face)
    axes.set_yticks(range(len(lines)), [name for name, *_ in lines], fontsize=7)
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")


def _finish(axes: Axes, table: Table, benchmark: str, legend: bool) -> None:
    title, metric = table.title(benchmark)
    seeds = sorted({row.seeds for row in table.rows})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    axes.set_title(
        f"{title}\nmean and standard deviation over {count} seed{'s' * (seeds[-1] > 1)}", fontsize=9
    )
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    if legend:
        axes.legend(fontsize=7, frameon=False)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _matplotlib() -> Figure:
    try:
        import matplotlib.figure
    except ImportError:
        raise Owl2Error("plots need matplotlib; install it with: pip install 'owl2_jax[plots]'") from None
    return matplotlib


def _figure(height: float = 3.4, width: float = 5.2) -> tuple[Figure, Axes]:
    """A figure, so many inches high and wide, that belongs to no window system and no global state."""
    figure = _matplotlib().figure.Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _write(stem: Path, figure: Figure) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in _FORMATS]
    for path in paths:
        # Without a date and with fixed ids the same table gives the same bytes.
        with _matplotlib().rc_context({"svg.hashsalt": "owl2"}), new_file(path) as part:
            figure.savefig(part, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths
