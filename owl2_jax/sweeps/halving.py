"""Successive halving: every point gets a few seeds, then the better half of them twice as many, and so on.

What is doubled is the number of seeds and not that of steps: a rate that decays
to its last step makes a shorter run another recipe, whose order of the points
need not be that of the longer one. Nobody is stopped after one seed, which
tells no spread. The base goes on in any case, as differences are to it.

What is stopped follows from the finished runs alone, so an interrupted sweep
comes to the same; halving.json in the sweep's folder says it to `--collect`.
Means of the points that went on are a little too good: they were chosen for
them. A difference that matters wants seeds of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.sweeps.claims import HELDOUT_LOSS, LOSS
from owl2_jax.sweeps.collect import read_row
from owl2_jax.sweeps.folder import SweepFolder
from owl2_jax.sweeps.grid import Point, Run, Sweep
from owl2_jax.sweeps.run import Outcome, Say, run_sweep
from owl2_jax.sweeps.stops import Stop, write_stops

FIRST_SEEDS: Final = 2


def run_halving(
    sweep: Sweep,
    folder: SweepFolder,
    measure: str,
    *,
    retries: int = 1,
    say: Say = print,
    jobs: int | None = None,
) -> Outcome:
    """Runs the sweep's points with 2 seeds, the better half with 4, and so on; more is as `run_sweep`.

    Ends at a rung with a failed run: without it there is no order of the points.

    Args:
      measure: a benchmark, "benchmark/part", "loss" or "heldout_loss".

    Raises:
      Owl2Error: the runs have no such measure, or as `run_sweep`.
    """
    check_measure(sweep, measure)
    alive, seeds = list(sweep.points), sweep.config.seeds
    stops: dict[str, Stop] = {}
    write_stops(folder, stops)
    for count in rungs(len(seeds)):
        runs = [Run(point, seed) for seed in seeds[:count] for point in alive]
        outcome = run_sweep(sweep, folder, runs, retries=retries, say=say, jobs=jobs)
        if outcome.signal is not None or outcome.failed or count == len(seeds):
            break
        means = {point.name: _mean(sweep, folder, point, count, measure) for point in alive}
        found = stopped(means, sweep.base_point.name, measure, count)
        for name, stop in found.items():
            say(f"{name}: {stop.text()}")
        stops.update(found)
        alive = [point for point in alive if point.name not in found]
        write_stops(folder, stops)
    return outcome


def check_measure(sweep: Sweep, measure: str) -> None:
    """Raises `UnknownNameError` for what no run of the sweep can have."""
    known = [*sweep.config.benchmarks, LOSS, HELDOUT_LOSS]
    if measure.partition("/")[0] not in known:
        raise unknown_name("measure for --halving", measure, known)
    if len(sweep.config.seeds) <= FIRST_SEEDS:
        raise Owl2Error(
            f"--halving stops points after {FIRST_SEEDS} seeds at the earliest, and the sweep has "
            f"{len(sweep.config.seeds)}; give it more seeds, or leave --halving out"
        )


def rungs(seeds: int) -> list[int]:
    """Numbers of seeds at which points are compared, the last of them all: 5 -> 2, 4, 5."""
    counts = [FIRST_SEEDS << n for n in range(seeds.bit_length())]
    return [*(count for count in counts if count < seeds), seeds]


def stopped(means: Mapping[str, float], base: str, measure: str, seeds: int) -> dict[str, Stop]:
    """The worse half of {point: mean}, the base excepted; of two points, none."""
    lower = measure in (LOSS, HELDOUT_LOSS)
    order = sorted(means, key=lambda name: means[name] if lower else -means[name])
    kept = order[: max(2, math.ceil(len(order) / 2))]
    went_on = [name for name in order if name in kept or name == base]
    worst = [means[name] for name in kept if name != base][-1:] or [means[base]]
    return {
        name: Stop(measure, seeds, means[name], worst[0], len(went_on))
        for name in order
        if name not in went_on
    }


def _mean(sweep: Sweep, folder: SweepFolder, point: Point, count: int, measure: str) -> float:
    row = read_row(sweep, folder, [Run(point, seed) for seed in sweep.config.seeds[:count]])
    if not row.has(measure):
        raise Owl2Error(
            f"--halving: the runs of point {point.name} have no {measure}; they have {', '.join(row.names)}"
        )
    return row.measure(measure).mean
