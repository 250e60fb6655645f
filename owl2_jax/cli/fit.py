"""`owl2 fit`: whether a step fits a TPU slice, and how fast it can be, without the slice."""

from __future__ import annotations

import argparse
import os

from owl2_jax.core.ranges import Count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", metavar="FILE.py[:ARGUMENT]", help="config file of a training run")
    source.add_argument("--preset", metavar="NAME", help="a model without a config file, as owl2_7b")
    parser.add_argument("--topology", required=True, help="slice of TPU chips, as v5e:16x16 or v5p:4x4x4")
    parser.add_argument("--what", default="train", help="train, prefill or decode (default: %(default)s)")
    parser.add_argument("--mesh", help="axis sizes, as fsdp=64,tensor=4, or a mesh preset")
    parser.add_argument("--rows", type=Count, help="rows of a step over all chips")
    parser.add_argument("--length", type=Count, help="tokens of a row; for decode those of the cache")
    parser.add_argument("--search", action="store_true", help="look for the fastest batch and remat policy")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument(
        "overrides", nargs="*", metavar="FIELD=VALUE", help="changed fields, as model.remat=context"
    )


def main(args: argparse.Namespace) -> int:
    from owl2_jax.parallel.chips import compiler_environment, parse_topology

    topology = parse_topology(args.topology)
    # Read when JAX is imported, which the next line does.
    os.environ.update(compiler_environment(topology))

    from owl2_jax.perf import fit_report, fitting, run_config

    config = run_config.load(args.config, args.preset, args.rows, args.length, args.overrides)
    plan = fitting.make_plan(args.what, config, topology, args.mesh, is_file=args.config is not None)
    results = fitting.search(plan) if args.search else [fitting.measure(plan)]
    best = min(results, key=lambda result: result.rank)
    if args.json:
        fit_report.print_json(best, results)
    else:
        fit_report.print_tables(best, results)
    return 0 if best.fit.memory.fits else 1
