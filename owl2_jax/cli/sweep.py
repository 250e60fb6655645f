"""`owl2 sweep`: runs a grid of changes of one config, and collects its results."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from owl2_jax.core.ranges import Count, Whole
from owl2_jax.core.texts import BucketPath, FilePath

if TYPE_CHECKING:
    from owl2_jax.sweeps.costs import Machine
    from owl2_jax.sweeps.folder import SweepFolder
    from owl2_jax.sweeps.grid import Sweep

FAILED = 1
STOPPED = 128  # plus the signal, as shells report it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `owl2 sweep`."""
    parser.add_argument(
        "sweep",
        metavar="FILE.py[:ARGUMENTS]",
        help="sweep file, as configs/sweeps/query_count.py, or sweeps/query_count",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="FIELD=VALUE",
        help="changed fields of every point, as train.total_steps=100",
    )
    parser.add_argument(
        "--workdir", type=BucketPath, metavar="DIR", help="results; runs/sweeps/NAME by default"
    )
    parser.add_argument(
        "--plot", action="append", default=[], metavar="BENCHMARK/PART",
        help="with --collect: also draw a kind of question, as easy_vqa/shape; again for more",
    )  # fmt: skip
    parser.add_argument(
        "--spread-from", type=BucketPath, metavar="TABLE.csv",
        help="before a run, or with --list: tell what the grid can see from the seeds' spread in an earlier "
        "sweep's table",
    )  # fmt: skip
    parser.add_argument("--retries", type=Whole, default=1, metavar="N", help="of a failed run (default: 1)")
    parser.add_argument(
        "--jobs", type=Count, metavar="N",
        help="N runs at a time, in N processes that share the cores and do run after run, so that small runs "
        "start, compile and read their data once (default: one run at a time, a process per command)",
    )  # fmt: skip
    parser.add_argument(
        "--base", metavar="POINT", help="the point that differences are to (default: the first of --list)"
    )
    parser.add_argument(
        "--halving", metavar="MEASURE",
        help="stop the worse half of the points after 2 seeds, again after 4, and so on, by a benchmark, a "
        "kind of its questions (easy_vqa/shape), loss or heldout_loss",
    )  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="print the points and their state, run nothing")
    what.add_argument(
        "--only", action="append", metavar="POINT/seed-N",
        help="run this one alone, or a POINT with all its seeds; again for more, single runs first",
    )  # fmt: skip
    what.add_argument("--fit", action="store_true", help="memory of every point by `owl2 fit` (extra [fit])")
    what.add_argument("--collect", action="store_true", help="write table and plots of what is finished")
    what.add_argument(
        "--slurm", type=FilePath, metavar="DIR", help="write SLURM array jobs instead of running"
    )
    what.add_argument(
        "--jobset", type=FilePath, metavar="DIR", help="write a JobSet per run instead of running"
    )


def main(args: argparse.Namespace) -> int:
    """Runs `owl2 sweep`; returns the exit code."""
    from owl2_jax.core.file_writing import check_folder
    from owl2_jax.sweeps.claims_notes import note_claims
    from owl2_jax.sweeps.commands import commands_of
    from owl2_jax.sweeps.folder import SweepFolder
    from owl2_jax.sweeps.grid import load_sweep

    sweep = load_sweep(args.sweep, args.overrides, args.base)
    _check_halving(sweep, args)
    _check_jobs(args)
    _check_spread(args)
    folder = SweepFolder(args.workdir or Path("runs/sweeps") / sweep.name)
    if args.list:
        return _list(sweep, folder, args.spread_from)
    if args.collect and not folder.path.is_dir():
        return _collect(sweep, folder, args.plot)  # which says so, and makes no folder
    check_folder(folder.path, "--workdir")
    note_claims(sweep, folder, is_new=folder.take(sweep))
    if args.collect:
        return _collect(sweep, folder, args.plot)
    if args.fit:
        return _fit(sweep, folder)
    if not (args.slurm or args.jobset):
        commands_of(sweep, folder, sweep.runs[0])  # the checkpoint to start from is there
    from owl2_jax.sweeps.costs import check_fits

    check_fits(sweep, _machine(sweep))
    if args.slurm or args.jobset:
        _tell_power(sweep, folder, args.spread_from)
        return _write_out(sweep, folder, args)
    return _run(sweep, folder, args)


def _check_halving(sweep: Sweep, args: argparse.Namespace) -> None:
    """Raises `Owl2Error` for a choice between points that no command could make."""
    if args.halving is None:
        return
    from owl2_jax.core.errors import Owl2Error
    from owl2_jax.sweeps.halving import check_measure

    check_measure(sweep, args.halving)
    names = ("only", "slurm", "jobset", "list", "fit", "collect")
    other = next((name for name in names if getattr(args, name)), None)
    if other is not None:
        raise Owl2Error(
            f"--halving decides while runs go on, one after the other, and has no meaning with --{other}; "
            "leave one of them out"
        )


def _check_jobs(args: argparse.Namespace) -> None:
    """Raises `Owl2Error` for processes beside an argument that starts none here."""
    from owl2_jax.core.errors import Owl2Error

    names = ("list", "fit", "collect", "slurm", "jobset")
    other = next((name for name in names if getattr(args, name)), None)
    if args.jobs is not None and other is not None:
        raise Owl2Error(
            f"--jobs says how many runs go on at a time, and --{other} starts none; leave one of them out"
        )


def _check_spread(args: argparse.Namespace) -> None:
    """Raises `Owl2Error` for an earlier table that nothing would read."""
    from owl2_jax.core.errors import Owl2Error

    other = next((name for name in ("only", "fit", "collect") if getattr(args, name)), None)
    if args.spread_from is not None and other is not None:
        raise Owl2Error(
            f"--spread-from {args.spread_from} tells what the whole grid can see before it runs, and has no "
            f"meaning with --{other}; leave one of them out, or give --list in place of --{other}"
        )


def _machine(sweep: Sweep) -> Machine:
    """The sweep's slice, or this machine."""
    from owl2_jax.parallel.chips import parse_topology
    from owl2_jax.sweeps.costs import Machine

    if sweep.config.topology is not None:
        topology = parse_topology(sweep.config.topology)
        return Machine(topology.name, topology.count, topology.chip.memory)
    return Machine("this machine", 1, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _list(sweep: Sweep, folder: SweepFolder, earlier: Path | None) -> int:
    from owl2_jax.sweeps.stops import read_stops

    stops = read_stops(folder)
    for run in sweep.runs:
        files = folder.run(run)
        lacks = files.lacks(sweep.run_config(run), sweep.config.benchmarks)
        waits = "stopped" if run.point.name in stops else "open"
        state = "done" if lacks is None else "failed" if files.failed.is_file() else waits
        print(f"{run.name:40} {state:7} {' '.join(run.point.overrides)}")
    if earlier is not None:
        _tell_power(sweep, folder, earlier)
    return 0


def _run(sweep: Sweep, folder: SweepFolder, args: argparse.Namespace) -> int:
    from owl2_jax.sweeps.halving import run_halving
    from owl2_jax.sweeps.run import run_sweep
    from owl2_jax.sweeps.stops import forget_stops, read_stops

    runs = sweep.chosen(args.only) if args.only else sweep.runs
    if not args.only:
        _tell_power(sweep, folder, args.spread_from)
    say = lambda text: print(text, flush=True)
    if args.halving is not None:
        outcome = run_halving(sweep, folder, args.halving, retries=args.retries, say=say, jobs=args.jobs)
        stops = read_stops(folder)
        runs = [
            run
            for run in runs
            if run.point.name not in stops or run.seed in sweep.config.seeds[: stops[run.point.name].seeds]
        ]
    else:
        if not args.only:
            forget_stops(folder)
        outcome = run_sweep(sweep, folder, runs, retries=args.retries, say=say, jobs=args.jobs)
    if outcome.signal is not None:
        say(f"stopped with {len(outcome.finished)} of {len(runs)} runs done; the same command goes on")
        return STOPPED + outcome.signal
    for name, error in outcome.failed.items():
        say(f"failed: {name}: {error}")
    if outcome.failed:
        say(f"{len(outcome.failed)} of {len(runs)} runs failed; the same command tries them again")
        return FAILED
    collect = f"owl2 sweep {args.sweep} --workdir={folder.path} --collect"
    say(f"{len(runs)} of {len(runs)} runs are done; `{collect}` writes the table")
    return 0


def _tell_power(sweep: Sweep, folder: SweepFolder, earlier: Path | None) -> None:
    """Prints what differences the grid can see, or what would tell."""
    from owl2_jax.sweeps.power import forecast, noise_before

    comparisons, seeds = len(sweep.points) - 1, len(sweep.config.seeds)
    if not comparisons:
        return
    source, noise = noise_before(sweep, folder, earlier)
    if noise:
        print(
            f"smallest difference to {sweep.base_point.name} that {seeds} seed{'s' * (seeds > 1)} can see, "
            f"8 times in 10, among {comparisons} comparison{'s' * (comparisons > 1)} (spread: {source}):"
        )
        for line in forecast(noise, seeds, comparisons):
            print(f"  {line}")
    else:
        print(f"what differences this grid can see is not known: {source}")


def _collect(sweep: Sweep, folder: SweepFolder, parts: list[str]) -> int:
    from owl2_jax.sweeps.claims_notes import stated_late
    from owl2_jax.sweeps.claims_table import answers, claims_markdown, write_claims
    from owl2_jax.sweeps.collect import collect
    from owl2_jax.sweeps.plots import write_claims_plot, write_plots
    from owl2_jax.sweeps.table_files import markdown, write_table

    table, claims, plots = collect(sweep, folder), sweep.config.claims, folder.path / "plots"
    print(markdown(table))
    _tell(write_table(table, folder.path))
    found = answers(table, claims)
    late = stated_late(folder, claims) if claims else {}
    if claims:
        print(claims_markdown(found, late))
    _tell(write_claims(found, folder.path, late))
    # Last, as they need a library that may be missing.
    _tell([*write_plots(table, plots, parts), *write_claims_plot(found, plots)])
    if table.missing:
        print(f"{len(table.missing)} runs are not finished; `owl2 sweep {sweep.location}` goes on with them")
    return 0


def _tell(paths: Sequence[Path]) -> None:
    for path in paths:
        print(f"wrote {path}")


def _fit(sweep: Sweep, folder: SweepFolder) -> int:
    from owl2_jax.sweeps.fits import fit_points

    return FAILED if fit_points(sweep, folder, say=lambda text: print(text, flush=True)) else 0


def _write_out(sweep: Sweep, folder: SweepFolder, args: argparse.Namespace) -> int:
    from owl2_jax.sweeps.clusters import write_jobsets, write_slurm

    paths = (
        write_slurm(sweep, folder, args.slurm) if args.slurm else write_jobsets(sweep, folder, args.jobset)
    )
    for path in paths:
        print(f"wrote {path}")
    return 0
