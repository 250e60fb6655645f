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
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", metavar="FILE.py[:ARGUMENT]", help="config file of a training run")
    source.add_argument("--preset", metavar="NAME", help="a model without a config file, as owl2_7b")
    parser.add_argument("--topology", required=True, help="slice of TPU chips, as v5e:16x16 or v5p:4x4x4")
    parser.add_argument(
        "--what", default="train", help="train, prefill, decode or serve (default: %(default)s)"
    )
    parser.add_argument("--mesh", help="axis sizes, as fsdp=64,tensor=4, or a mesh preset")
    parser.add_argument("--rows", type=Count, help="rows of a step over all chips")
    parser.add_argument(
        "--length", type=Count, help="tokens of a row; for decode and serve those of the cache"
    )
    parser.add_argument("--search", action="store_true", help="look for the fastest batch and remat policy")
    parser.add_argument(
        "--ops", action="store_true", help="also where the time goes, by part of the model and operation"
    )
    parser.add_argument("--html", type=BucketPath, metavar="FILE", help="write the same as a page")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument(
        "overrides", nargs="*", metavar="FIELD=VALUE", help="changed fields, as model.remat=context"
    )


def main(args: argparse.Namespace) -> int:
    from owl2_jax.parallel.chips import compiler_environment, parse_topology

    topology = parse_topology(args.topology)
    check_output(args.html)
    # Read when JAX is imported, which the next line does.
    os.environ.update(compiler_environment(topology))

    from owl2_jax.perf import fit_report, fitting, run_config, versions

    compiler = versions.check_compiler()

    config = run_config.load(args.config, args.preset, args.rows, args.length, args.overrides)
    plan = fitting.make_plan(args.what, config, topology, args.mesh, is_file=args.config is not None)
    results = fitting.search(plan) if args.search else [fitting.measure(plan)]
    best = min(results, key=lambda result: result.rank)
    if args.json:
        fit_report.print_json(best, results, compiler, args.ops)
    else:
        fit_report.print_tables(best, results, compiler, args.ops)
    if args.html is not None:
        write_page(args.html, fit_report.page(best, compiler))
    return 0 if best.fit.memory.fits else 1


def check_output(path: Path | None) -> None:
    """Refuses a page that could not be written, before minutes of compiling."""
    from owl2_jax.core.paths import in_bucket
    from owl2_jax.core.text_files import check_file

    if path is None:
        return
    if not in_bucket(path) and not path.parent.is_dir():
        raise Owl2Error(f"--html {path}: there is no folder {path.parent}")
    check_file(path, "--html")


def write_page(path: Path, page: str | None) -> None:
    """Raises `Owl2Error` where there is nothing to show."""
    from owl2_jax.core.text_files import write_text

    if page is None:
        raise Owl2Error(f"--html {path}: not written, because there is no forecast of what does not fit")
    write_text(path, page)
    print(f"wrote {path}", file=sys.stderr)
