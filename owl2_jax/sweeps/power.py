"""What difference a sweep can see: from the spread of finished seeds, before more of them run.

The smallest true difference that a paired t-test calls 8 times in 10, at the
first and strictest step of Holm's procedure. The spread is pooled over the
points, so for a point that is steadier than most a smaller difference will do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.sweeps.claims import HELDOUT_LOSS, LOSS
from owl2_jax.sweeps.collect import Table, collect
from owl2_jax.sweeps.differences import ALPHA
from owl2_jax.sweeps.folder import SweepFolder
from owl2_jax.sweeps.grid import Sweep
from owl2_jax.sweeps.student_t import visible_effect
from owl2_jax.sweeps.table_reading import number, read_rows

POWER: Final = 0.8
_OTHER_COUNTS: Final = (3, 5, 8, 10)  # of seeds, beside those of the sweep
_SAMPLED: Final = (
    "Where most of the spread comes from the questions alone, four times as many (`max_questions`) see about "
    "half the difference with the same runs; where little does, only more seeds help."
)


@dataclass(frozen=True)
class NoiseLevel:
    """How far the seeds' differences of one measure are spread.

    Attributes:
      deviation: of one seed's difference to the base, pooled over the points.
      df: degrees of freedom of it, over all points.
      sampled: the part of it that so few questions give by themselves
        (`sampling.py`); None where that is not known.
      questions: that were asked of every run; 0 where `sampled` is None.
    """

    deviation: float
    df: int
    sampled: float | None = None
    questions: int = 0

    def smallest_difference(self, seeds: int, comparisons: int) -> float | None:
        """What `seeds` of each point can see; None for fewer than two, which see nothing.

        Args:
          comparisons: of points with the base.
        """
        if seeds < 2:
            return None
        effect = visible_effect(seeds - 1, ALPHA / comparisons, POWER)
        return effect * self.deviation / math.sqrt(seeds)


def noise_of(table: Table) -> dict[str, NoiseLevel]:
    """{measure: noise} of finished runs; measures that no two seeds have are left out."""
    found = {}
    for name in table.measures:
        differences = table.differences(name).values()
        level = _pooled((one.deviation, one.seeds) for one in differences if one.deviation is not None)
        if level is not None:
            found[name] = _with_sampling(table, name, level)
    return found


def _with_sampling(table: Table, name: str, level: NoiseLevel) -> NoiseLevel:
    """Adds what the questions give, pooled over the points that tell it, by their seeds."""
    base = next(row for row in table.rows if row.point == table.base).answers.get(name)
    if base is None:
        return level
    others = [row.answers[name] for row in table.rows if row.point != table.base and name in row.answers]
    told = [(math.sqrt(variance), len(one.scores.keys() & base.scores.keys()))
            for one in others if (variance := one.sampled_with(base)) is not None]  # fmt: skip
    pooled = _pooled(told)
    return level if pooled is None else replace(level, sampled=pooled.deviation, questions=len(base.ids))


def read_noise(path: Path, measures: Sequence[str]) -> dict[str, NoiseLevel]:
    """The noise in the table.csv of an earlier sweep.

    Tables without differences tell the spread of the scores alone; that of a
    difference is then taken as the root of 2 larger, as if seeds were no pairs.

    Args:
      measures: of the sweep to be planned; those that the table has are given.

    Raises:
      Owl2Error: the file is no table of a sweep, or has none of the measures.
    """
    rows = read_rows(path)
    known = [name.removesuffix("_deviation") for name in rows[0] if name.endswith("_deviation")]
    shared = [name for name in measures if name in known]
    if not shared:
        raise unknown_name(f"measure in {path}", measures[0], [n for n in known if "_difference" not in n])
    levels = {name: _read_level(path, rows, name) for name in shared}
    return {name: level for name, level in levels.items() if level is not None}


def _read_level(path: Path, rows: list[dict[str, str]], name: str) -> NoiseLevel | None:
    paired = f"{name}_difference_deviation" in rows[0]
    deviation, seeds = (
        (f"{name}_difference_deviation", f"{name}_difference_seeds") if paired
        else (f"{name}_deviation", "seeds")
    )  # fmt: skip
    level = _pooled(
        (number(path, row, deviation), int(number(path, row, seeds))) for row in rows if row[deviation]
    )
    if level is None or paired:
        return level
    return NoiseLevel(math.sqrt(2) * level.deviation, level.df)


def _pooled(deviations: Iterable[tuple[float, int]]) -> NoiseLevel | None:
    """Root of the mean variance, each (deviation, seeds) by its degrees of freedom."""
    found = [(deviation, seeds - 1) for deviation, seeds in deviations if seeds > 1]
    df = sum(one for _, one in found)
    variance = sum(deviation**2 * one for deviation, one in found) / df if df else 0.0
    return NoiseLevel(math.sqrt(variance), df) if variance else None


def noise_before(
    sweep: Sweep, folder: SweepFolder, earlier: Path | None
) -> tuple[str, dict[str, NoiseLevel]]:
    """(where it is from, {measure: noise}) before a sweep runs; without noise, why there is none.

    Args:
      earlier: table.csv of another sweep; None takes what is finished in `folder`.

    Raises:
      Owl2Error: as `read_noise`.
    """
    measures = [*sweep.config.benchmarks, LOSS, HELDOUT_LOSS]
    if earlier is not None:
        return str(earlier), read_noise(earlier, measures)
    advice = "give --spread-from=TABLE.csv of an earlier sweep, or start again when two seeds are finished"
    if all(folder.run(run).lacks(sweep.run_config(run), sweep.config.benchmarks) for run in sweep.runs):
        return f"no run is finished; {advice}", {}
    try:
        table = collect(sweep, folder)
    except Owl2Error as error:  # what --collect will ask for must not stop the runs
        return f"{error}; {advice}", {}
    found = {name: level for name, level in noise_of(table).items() if name in measures}
    return (
        "finished seeds" if found else f"no two seeds of two points differ in what a change did; {advice}"
    ), found


def forecast(noise: Mapping[str, NoiseLevel], seeds: int, comparisons: int) -> list[str]:
    """A line per measure: what so many seeds can see, and what more could."""
    lines = []
    for name, level in noise.items():
        sizes = {count: level.smallest_difference(count, comparisons) for count in _counts(seeds)}
        others = [f"{size:.2g} with {n}" for n, size in sizes.items() if n != seeds and size is not None]
        planned = sizes[seeds]
        told = "one seed sees no difference" if planned is None else f"{planned:.2g} or more"
        lines.append(f"{name}: {told}; {', '.join(others)}")
    return lines


def seen_table(table: Table) -> list[str]:
    """Markdown: the smallest difference that this sweep can see, and that more seeds could."""
    noise = noise_of(table)
    shown = {name: noise[name] for name in table.benchmarks if name in noise}
    if not shown:
        return []
    comparisons = len(table.rows) - 1
    counts = _counts(max(row.seeds for row in table.rows))
    lines = ["", f"Smallest true difference that is seen {POWER * 100:.0f} times in 100, from the spread of "
                 f"these seeds, among {comparisons} comparison{'s' * (comparisons > 1)}:", ""]  # fmt: skip
    lines += [
        f"| benchmark | spread of a difference | from its questions alone | "
        f"{' | '.join(f'{n} seeds' for n in counts)} |",
        "|" + " --- |" * (len(counts) + 3),
    ]
    for name, level in shown.items():
        sizes = [level.smallest_difference(count, comparisons) for count in counts]
        cells = ["" if size is None else f"{size:.1f}" for size in sizes]
        sampled = "" if level.sampled is None else f"{level.sampled:.1f} ({level.questions} questions)"
        lines.append(f"| {table.title(name)[0]} | {level.deviation:.1f} | {sampled} | {' | '.join(cells)} |")
    if any(level.sampled is not None for level in shown.values()):
        lines += ["", _SAMPLED]
    return lines


def _counts(seeds: int) -> list[int]:
    return sorted({seeds, *_OTHER_COUNTS})
