"""`owl2 inspect`: what a configuration trains, stores and computes, in seconds and without a device."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from owl2_jax.core.fields import read_number
from owl2_jax.core.ranges import Count

if TYPE_CHECKING:
    from owl2_jax.perf.inspecting import Machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `owl2 inspect`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--config",
        metavar="FILE.py[:ARGUMENT]",
        help="config file of a training run, or a recipe (instruct_7b)",
    )
    source.add_argument("--preset", metavar="NAME", help="a model without a config file, as owl2_7b")
    machine = parser.add_mutually_exclusive_group()
    machine.add_argument("--topology", help="slice of TPU chips, as v5e:16x16 or v5p:4x4x4")
    machine.add_argument("--gpus", metavar="KIND:COUNT", help="GPUs, as h100:8")
    machine.add_argument("--devices", type=Count, help="number of devices of any kind (default: 1)")
    parser.add_argument("--all", action="store_true", help="list the sharding of every parameter")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE", help="changed fields, as mesh.fsdp=64")


def main(args: argparse.Namespace) -> int:
    """Runs `owl2 inspect`; returns the exit code."""
    from owl2_jax.perf import inspect_report, run_config
    from owl2_jax.perf.inspecting import inspect

    config = run_config.load(args.config, args.preset, None, None, args.overrides)
    values = inspect(config, _machine(args))
    if args.json:
        print(json.dumps(values, indent=2))
    else:
        inspect_report.print_tables(values, args.all)
    return 0


def _machine(args: argparse.Namespace) -> Machine:
    """The machine of the arguments. Raises `Owl2Error` for one that is not known."""
    from owl2_jax.core.errors import Owl2Error, unknown_name
    from owl2_jax.parallel.chips import CHIPS, parse_topology
    from owl2_jax.perf.inspecting import Machine

    if args.topology is not None:
        topology = parse_topology(args.topology)
        return Machine(topology.count, topology.chip, topology.name)
    if args.gpus is not None:
        kind, _, count = args.gpus.partition(":")
        gpus = {name: chip for name, chip in CHIPS.items() if not chip.accelerator}
        if kind not in gpus:
            raise unknown_name("kind of GPU", kind, gpus)
        if not count:
            raise Owl2Error(f"--gpus {args.gpus!r}: write kind and number, as h100:8")
        return Machine(read_number(Count, count, f"--gpus {kind}"), gpus[kind], args.gpus)
    return Machine(1 if args.devices is None else args.devices)
