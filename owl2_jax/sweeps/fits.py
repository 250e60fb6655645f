"""Memory and chip-hours of every point, as `owl2 fit` finds them by compiling for the sweep's slice."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.json_files import read_json, write_json
from owl2_jax.sweeps import processes
from owl2_jax.sweeps.commands import fit_command
from owl2_jax.sweeps.folder import SweepFolder
from owl2_jax.sweeps.grid import Run, Sweep


def fit_points(sweep: Sweep, folder: SweepFolder, say: Callable[[str], None]) -> list[str]:
    """Asks for every point that was not asked for yet; returns the points that do not fit.

    Raises:
      Owl2Error: the sweep names no topology, or `owl2 fit` could not answer.
    """
    if sweep.config.topology is None:
        raise Owl2Error(
            'the sweep names no slice; set its topology, as "v5e:16x16" (owl2 fit computes for TPU slices)'
        )
    too_large, hours = [], 0.0
    for point in sweep.points:
        path = folder.fit(point)
        if not path.is_file():
            say(f"{point.name}: compiling for {sweep.config.topology}")
            write_json(path, _ask(fit_command(sweep, Run(point, sweep.config.seeds[0]))))
        report = read_json(path)
        needed, capacity = (report["memory"][name] / 2**30 for name in ("needed", "capacity"))
        verdict = "fits" if report["fits"] else "DOES NOT FIT"
        one = chip_hours(report, sweep.run_config(Run(point, sweep.config.seeds[0])).train.num_steps)
        cost = "" if one is None else f", {one:.3g} chip-hours a run"
        say(f"{point.name}: {needed:.2f} of {capacity:.2f} GiB per chip, {verdict}{cost}")
        hours += (one or math.nan) * len(sweep.config.seeds)
        if not report["fits"]:
            too_large.append(point.name)
    if not math.isnan(hours):
        say(f"training of all {len(sweep.runs)} runs: {hours:.3g} chip-hours of {sweep.config.topology}, "
            "as forecast; evaluation comes on top")  # fmt: skip
    return too_large


def chip_hours(report: Mapping[str, Any], steps: int) -> float | None:
    """Of so many steps, by the forecast of `owl2 fit`; None where it has none."""
    ahead = report.get("forecast")
    return None if ahead is None else ahead["step_seconds"] * steps * report["chips"] / 3600


def _ask(arguments: list[str]) -> dict:
    """In a process of its own: the compiler's settings are read once, when JAX is imported."""
    done = subprocess.run([*processes.PROGRAM, *arguments], capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise Owl2Error(f"owl2 {' '.join(arguments)} ended with code {done.returncode}: {said[-1]}") from None
