"""`owl2 data`: prepare training data, and look at what a config trains on."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from owl2_jax.core.ranges import Count, Whole
from owl2_jax.core.texts import BucketPath


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `owl2 data`."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_prepare(commands)
    _add_check(commands)


def main(args: argparse.Namespace) -> int:
    """Runs `owl2 data`; returns the exit code."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {"prepare": _prepare, "check": _check}
    return actions[args.action](args)


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "prepare", help="check, shrink, deduplicate and write sets as ArrayRecord shards"
    )
    parser.add_argument("config", metavar="FILE.py[:ARGUMENTS]", help="says what to prepare")
    parser.add_argument(
        "--output", required=True, type=BucketPath, metavar="DIR", help="appears when everything is done"
    )
    parser.add_argument("--runner", default="DirectRunner", help="of Apache Beam (default: DirectRunner)")
    parser.add_argument("--workers", type=Count, default=1, help="processes of the DirectRunner (default: 1)")
    parser.add_argument(
        "--beam", action="append", default=[], metavar="NAME=VALUE", help="an option of Beam; may come again"
    )
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE", help="changed fields")


def _prepare(args: argparse.Namespace) -> int:
    from owl2_jax.config import apply_overrides, read_config_file
    from owl2_jax.core import fields
    from owl2_jax.core.errors import Owl2Error
    from owl2_jax.data_tools.prepare.settings import PrepareConfig

    config = fields.from_dict(PrepareConfig, apply_overrides(read_config_file(args.config), args.overrides))
    try:
        from owl2_jax.data_tools.prepare.run import is_there, prepare
    except ModuleNotFoundError as error:
        raise Owl2Error(
            f"owl2 data prepare needs Apache Beam ({error.name} is not installed); install it with: "
            'pip install "owl2_jax[prepare]"'
        ) from error
    flags = [f"--runner={args.runner}", *(f"--{option.lstrip('-')}" for option in args.beam)]
    if args.workers > 1:
        flags += [f"--direct_num_workers={args.workers}", "--direct_running_mode=multi_processing"]
    output = str(args.output)
    with _prepare_lock(output):
        there = is_there(output)
        manifest = prepare(config, output, flags)
    for name, about in manifest["sets"].items():
        left_out = ", ".join(f"{reason} {count}" for reason, count in about["rejected"].items()) or "nothing"
        print(
            f"{name}: {about['records']:,} of {about['read']:,} records in {len(about['shards'])} shards, "
            f"{about['bytes'] / 1e6:,.1f} MB; left out: {left_out}"
        )
    print(f"{args.output} is complete" if there else f"wrote {args.output}")
    return 0


def _prepare_lock(output: str) -> AbstractContextManager[object]:
    """One at a time for an output."""
    from owl2_jax.core.errors import Owl2Error
    from owl2_jax.core.file_writing import check_folder
    from owl2_jax.core.locks import locked
    from owl2_jax.core.paths import as_path, in_bucket

    if in_bucket(output):
        folder = as_path(output)
        check_folder(folder.parent, "--output: the folder")
        return locked(folder.with_name(f".{folder.name}.lock"), f"--output {output}")
    path = Path(os.path.abspath(output))  # "." and ".." have names of their own
    if not path.name:
        raise Owl2Error(f"--output {output} is the root folder, expected the name of a folder to make")
    check_folder(path.parent, "--output: the folder")
    return locked(path.with_name(f".{path.name}.lock"), f"--output {output}")


def _add_check(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("check", help="count, measure and show what a config trains on")
    parser.add_argument("config", metavar="FILE.py[:ARGUMENTS]", help="config file, as for owl2 train")
    parser.add_argument(
        "--output",
        type=BucketPath,
        metavar="FILE.html",
        help="page to write (default: data_check_CONFIG.html)",
    )
    parser.add_argument(
        "--records", type=Count, default=1000, help="records to read, in training's order (default: 1000)"
    )
    parser.add_argument("--shown", type=Whole, default=24, help="samples to show (default: 24)")
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE", help="changed fields")


def _check(args: argparse.Namespace) -> int:
    from owl2_jax.config import load_config
    from owl2_jax.core.file_writing import check_file, write_text
    from owl2_jax.data.pipeline import load_tokenizer
    from owl2_jax.data_tools.check.page import render, summary
    from owl2_jax.data_tools.check.survey import survey

    config = load_config(args.config, args.overrides)
    name = Path(args.config.partition(":")[0]).stem
    output = args.output or Path(f"data_check_{name}.html")
    check_file(output, "--output")
    found = survey(
        config.data,
        load_tokenizer(config.data),
        config.model.vision.image_size,
        config.model.tokens_per_image,
        records=args.records,
        shown=args.shown,
    )
    write_text(output, render(found, f"Data of {args.config}"))
    _print_sets(found.sets)
    print(summary(found))
    for remark in found.remarks():
        print(remark)
    print(f"wrote {output}")
    found.check()
    return 0


def _print_sets(sets: Any) -> None:
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    table = Table(title="What this config trains on", title_justify="left")
    for column in ("set", "records", "share", "read", "bad", "cut", "length", "images"):
        table.add_column(column, justify="left" if column == "set" else "right", no_wrap=True)
    for one in sets:
        table.add_row(
            one.name,
            f"{one.records:,}",
            f"{one.share:.1%}",
            f"{one.read:,}",
            f"{one.rejected.total():,}",
            f"{one.cut.total():,}",
            f"{np.mean(one.lengths):.1f}" if one.lengths else "-",
            f"{np.mean(one.images):.2f}" if one.images else "-",
        )
    Console().print(table)
