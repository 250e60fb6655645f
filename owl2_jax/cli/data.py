"""`owl2 data`: look at what a config trains on."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_check(commands)


def main(args: argparse.Namespace) -> int:
    actions: dict[str, Callable[[argparse.Namespace], int]] = {"check": _check}
    return actions[args.action](args)


def _add_check(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("check", help="count, measure and show what a config trains on")
    parser.add_argument("config", metavar="FILE.py[:ARGUMENTS]", help="config file, as for owl2 train")
    parser.add_argument(
        "--output", type=Path, metavar="FILE.html", help="page to write (default: data_check_CONFIG.html)"
    )
    parser.add_argument(
        "--records", type=int, default=1000, help="records to read, in training's order (default: 1000)"
    )
    parser.add_argument("--shown", type=int, default=24, help="samples to show (default: 24)")
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE", help="changed fields")


def _check(args: argparse.Namespace) -> int:
    from owl2_jax.config import load_config
    from owl2_jax.data.check.page import render, summary
    from owl2_jax.data.check.survey import survey
    from owl2_jax.data.pipeline import load_tokenizer

    config = load_config(args.config, args.overrides)
    name = Path(args.config.partition(":")[0]).stem
    found = survey(
        config.data,
        load_tokenizer(config.data),
        config.model.vision.image_size,
        config.model.tokens_per_image,
        records=args.records,
        shown=args.shown,
    )
    output = args.output or Path(f"data_check_{name}.html")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(render(found, f"Data of {args.config}"), encoding="utf-8")
    _print_sets(found.sets)
    print(summary(found))
    print(f"wrote {output}")
    found.check()
    return 0


def _print_sets(sets: Any) -> None:
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    table = Table(title="What this config trains on", title_justify="left")
    for column in ("set", "records", "share", "read", "bad", "cut", "length", "pictures"):
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
