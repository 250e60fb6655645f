"""`owl2 bench`: how fast training, prefill, decoding and attention run on this machine."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("train", "prefill", "decode", "attention"), help="what to time")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", metavar="FILE.py[:ARGUMENT]", help="config file of a training run")
    source.add_argument("--preset", metavar="NAME", help="a model (default: owl2_bench)")
    parser.add_argument("--mesh", help="axis sizes, as fsdp=4,tensor=2 (default: data over all devices)")
    parser.add_argument("--rows", type=int, help="rows of a call over all devices")
    parser.add_argument("--length", type=int, help="tokens of a row; for decode of the prompt")
    parser.add_argument("--calls", type=int, default=10, help="timed calls (default: %(default)s)")
    parser.add_argument("--trace", metavar="DIR", help="write a profile of the timed calls")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument(
        "overrides", nargs="*", metavar="FIELD=VALUE", help="changed fields, as model.remat=context"
    )


def main(args: argparse.Namespace) -> int:
    from owl2_jax.core.memory import keep_freed_memory

    keep_freed_memory()

    import jax

    from owl2_jax.core.errors import Owl2Error
    from owl2_jax.perf.benches import load, time_attention, time_workload

    if args.calls < 1:
        raise Owl2Error(f"--calls must be at least 1, found {args.calls}")
    config = load(args.what, args.config, args.preset, args.rows, args.length, args.overrides)
    if args.what == "attention":
        report = time_attention(config, args.calls)
    else:
        report = time_workload(args.what, config, args.mesh, args.calls, args.trace)
    device = jax.devices()[0]
    report = {"device": device.device_kind, "devices": jax.device_count(), "jax": jax.__version__, **report}
    print(json.dumps(report, indent=2) if args.json else table(report))
    return 0


def table(report: dict[str, Any]) -> str:
    """Two columns, numbers with a unit in the name of their row."""
    lines = []
    for name, value in report.items():
        if isinstance(value, list):
            lines += [f"{name}:", *(f"  {_row(row)}" for row in value)]
        else:
            lines.append(f"{name.replace('_', ' '):28}{_shown(value)}")
    return "\n".join(lines)


def _row(values: dict[str, Any]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in values.items())


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
