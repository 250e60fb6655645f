"""`owl2 report`: an image of a run, its scores and some of its answers."""

from __future__ import annotations

import argparse

from owl2_jax.core.texts import BucketPath


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `owl2 report`."""
    parser.add_argument(
        "--run", required=True, type=BucketPath, help="folder with scores.json and training runs"
    )
    parser.add_argument("--output", type=BucketPath, help="PNG file; RUN/report.png by default")


def main(args: argparse.Namespace) -> int:
    """Runs `owl2 report`; returns the exit code."""
    from owl2_jax.core.file_writing import check_file
    from owl2_jax.evals.report import write_report

    output = args.output or args.run / "report.png"
    check_file(output, "--output")
    write_report(args.run, output)
    print(f"wrote {output}")
    return 0
