"""`owl2 bench`: how fast training, inference and the input pipeline run on this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from owl2_jax.cli.common import keep_compiled_programs
from owl2_jax.core.fields import read_number
from owl2_jax.core.ranges import Count, NotNegative, Whole
from owl2_jax.core.texts import BucketPath, FilePath

_WORKLOADS = {
    "train": "a training step",
    "prefill": "images and prompts into the cache",
    "decode": "one token after another",
    "attention": "the attention kernels that run here",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `owl2 bench`."""
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, words in _WORKLOADS.items():
        _add_workload(commands.add_parser(name, help=words))
    _add_engine(commands.add_parser("engine", help="what the engine adds to the bare decode step"))
    _add_data(commands.add_parser("data", help="how fast a config's data comes"))
    _add_machine(commands.add_parser("machine", help="all of it on one device, beside what it should take"))


def _add_workload(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", metavar="FILE.py[:ARGUMENT]", help="config file of a training run")
    source.add_argument("--preset", metavar="NAME", help="a model (default: owl2_bench)")
    parser.add_argument("--mesh", help="axis sizes, as fsdp=4,tensor=2 (default: data over all devices)")
    parser.add_argument("--rows", type=Count, help="rows of a call over all devices")
    parser.add_argument("--length", type=Count, help="tokens of a row; for decode of the prompt")
    parser.add_argument("--calls", type=Count, default=10, help="timed calls (default: %(default)s)")
    parser.add_argument("--trace", type=FilePath, metavar="DIR", help="write a profile of the timed calls")
    _add_common(parser)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", metavar="NAME", help="a model (default: owl2_bench)")
    parser.add_argument("--length", type=Count, default=257, help="positions of the prompt (default: 257)")
    parser.add_argument("--tokens", type=Count, default=64, help="timed tokens of an answer (default: 64)")
    parser.add_argument("--calls", type=Count, default=10, help="timed answers (default: %(default)s)")
    _add_common(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="FILE.py[:ARGUMENT]", help="config file, as for owl2 train")
    parser.add_argument(
        "--workers", type=_counts, default=(), metavar="N,N,...",
        help="numbers of worker processes to try, as 0,1,2 (default: the config's data.workers)",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=Whole, default=400,
        help="images to compare with a bare decoding loop on one core; 0 for none (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--pictures", type=Whole, dest="images", help=argparse.SUPPRESS)  # older name
    parser.add_argument("--batches", type=Count, default=30, help="timed batches (default: %(default)s)")
    parser.add_argument(
        "--step-seconds", type=NotNegative, default=0.0, metavar="S",
        help="rest so long after each batch, as for a training step, and show the share of waiting",
    )  # fmt: skip
    _add_common(parser)


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=BucketPath,
        default=Path("measured.json"),
        metavar="FILE",
        help="file of measurements (default: %(default)s)",
    )
    parser.add_argument("--calls", type=Count, default=5, help="timed calls (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=Count, default=600, help="begin nothing new after them (default: %(default)s)"
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument(
        "overrides", nargs="*", metavar="FIELD=VALUE", help="changed fields, as model.remat=context"
    )


def _counts(text: str) -> tuple[int, ...]:
    return tuple(read_number(Whole, part, "--workers") for part in text.split(","))


def main(args: argparse.Namespace) -> int:
    """Runs `owl2 bench`; returns the exit code."""
    from owl2_jax.core.host_memory import keep_freed_memory

    keep_freed_memory()
    keep_compiled_programs()
    if args.what == "machine":
        from owl2_jax.core.file_writing import check_file
        from owl2_jax.perf.machine_bench import run

        check_file(args.output, "--output")
        run(args.output, args.calls, float(args.seconds))
        return 0
    reports = {"data": _data, "engine": _engine}
    report = reports.get(args.what, _workload)(args)
    print(json.dumps(report, indent=2) if args.json else table(report))
    return 0


def _workload(args: argparse.Namespace) -> dict[str, Any]:
    from owl2_jax.perf.benches import load, time_attention, time_workload

    config = load(args.what, args.config, args.preset, args.rows, args.length, args.overrides)
    if args.what == "attention":
        report = time_attention(config, args.calls)
    else:
        report = time_workload(args.what, config, args.mesh, args.calls, args.trace and str(args.trace))
    return {**_machine(), **report}


def _engine(args: argparse.Namespace) -> dict[str, Any]:
    from owl2_jax.perf.benches import load
    from owl2_jax.perf.engine_bench import time_engine

    config = load("decode", None, args.preset, None, None, args.overrides)
    return {**_machine(), **time_engine(config.model, args.length, args.tokens, args.calls)}


def _machine() -> dict[str, Any]:
    import jax

    device = jax.devices()[0]
    return {"device": device.device_kind, "devices": jax.device_count(), "jax": jax.__version__}


def _data(args: argparse.Namespace) -> dict[str, Any]:
    from owl2_jax.config import load_config
    from owl2_jax.perf.input_bench import bench_data

    config = load_config(args.config, args.overrides)
    found = bench_data(
        config.data,
        config.model.vision.image_size,
        config.model.tokens_per_image,
        count=args.images,
        batches=args.batches,
        workers=args.workers,
        step_seconds=args.step_seconds,
    )
    return {"what": "data", "image_mode": config.data.image_mode, **found}


def table(report: dict[str, Any]) -> str:
    """Two columns, numbers with a unit in the name of their row."""
    lines = []
    for name, value in report.items():
        if isinstance(value, list):
            lines += [f"{name}:", *(f"  {_row(row)}" for row in value)]
        else:
            lines.append(f"{name.replace('_', ' '):36}{_shown(value)}")
    return "\n".join(lines)


def _row(values: dict[str, Any]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in values.items())


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
