"""`owl2 fit`: whether a step fits a TPU slice, and how fast it can be, without the slice."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.ranges import Count
from owl2_jax.core.texts import BucketPath


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `owl2 fit`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", metavar="FILE.py[:ARGUMENT]", help="config file of a training run")
    source.add_argument("--preset", metavar="NAME", help="a model without a config file, as owl2_7b")
    source.add_argument(
        "--published", metavar="NAME", help="a step that others have measured, as maxtext_32b_v5e"
    )
    parser.add_argument("--topology", help="slice of TPU chips, as v5e:16x16 or v5p:4x4x4")
    parser.add_argument(
        "--what", default="train", help="train, prefill, decode or serve (default: %(default)s)"
    )
    parser.add_argument("--mesh", help="axis sizes, as fsdp=64,tensor=4, or a mesh preset")
    parser.add_argument("--rows", type=Count, help="rows of a step over all chips")
    parser.add_argument("--length", type=Count, help="tokens of a row; of the cache for decode and serve")
    parser.add_argument(
        "--search",
        action="store_true",
        help="look for what is fastest by the forecast: remat, batch, mesh, tiles, compiler options",
    )
    parser.add_argument(
        "--tried", type=BucketPath, metavar="FILE", help="where --search keeps what it tried, and looks it up"
    )
    parser.add_argument(
        "--ops", action="store_true", help="also where the time goes, by part of the model and operation"
    )
    parser.add_argument("--html", type=BucketPath, metavar="FILE", help="write the same as a page")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument(
        "overrides", nargs="*", metavar="FIELD=VALUE", help="changed fields, as model.remat=context"
    )


def main(args: argparse.Namespace) -> int:
    """Runs `owl2 fit`; returns the exit code."""
    from owl2_jax.parallel.chips import compiler_environment, parse_topology
    from owl2_jax.perf.published import published

    step = published(args.published) if args.published else None
    _check_flags(args)
    topology = parse_topology(args.topology or step.topology)
    check_output(args.html, "--html")
    check_output(args.tried, "--tried")
    # Read when JAX is imported, which the next line does.
    os.environ.update(compiler_environment(topology))

    from owl2_jax.perf import fit_report, fitting, run_config, searching, versions

    config = run_config.load(
        args.config, args.preset, args.rows, args.length, args.overrides, step.config() if step else None
    )
    compiler = versions.check_compiler()
    mesh = args.mesh or (step.mesh if step else None)
    plan = fitting.make_plan(args.what, config, topology, mesh, is_file=args.config is not None)
    if args.search:
        memory = searching.Memory(args.tried, compiler)
        attempts = searching.search(plan, fitting.measure, memory)
        best = min(attempts, key=lambda attempt: attempt.rank)
        fit_report.print_search(best, attempts, compiler, args.json, args.ops)
        result = best.result
    else:
        result = fitting.measure(plan)
        fit_report.print_result(result, compiler, args.json, args.ops, step)
    if args.html is not None:
        write_page(args.html, fit_report.page(result, compiler) if result is not None else None)
    fits = result.fit.memory.fits if result is not None else best.seconds is not None
    return 0 if fits else 1


def _check_flags(args: argparse.Namespace) -> None:
    """Raises `Owl2Error` for flags that need or exclude each other."""
    if args.topology is None and args.published is None:
        raise Owl2Error("--topology is missing: a slice of TPU chips, as v5e:16x16 or v5p:4x4x4")
    if args.published and (args.what != "train" or args.rows or args.length or args.search):
        raise Owl2Error(
            "--published is a training step of its own batch; leave out --what, --rows, --length and --search"
        )
    if args.tried is not None and not args.search:
        raise Owl2Error("--tried keeps what --search tried; add --search, or leave it out")


def check_output(path: Path | None, flag: str) -> None:
    """Refuses a file that could not be written, before minutes of compiling."""
    from owl2_jax.core.file_writing import check_file
    from owl2_jax.core.paths import in_bucket

    if path is None:
        return
    if not in_bucket(path) and not path.parent.is_dir():
        raise Owl2Error(f"{flag} {path}: there is no folder {path.parent}")
    check_file(path, flag)


def write_page(path: Path, page: str | None) -> None:
    """Raises `Owl2Error` where there is nothing to show."""
    from owl2_jax.core.file_writing import write_text

    if page is None:
        raise Owl2Error(
            f"--html {path}: not written, because there is no forecast at hand: it does not fit, or "
            "an earlier search compiled it"
        )
    write_text(path, page)
    print(f"wrote {path}", file=sys.stderr)
