"""Prints what `owl2 inspect` found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from owl2_jax.model import flops
from owl2_jax.parallel.chips import GIB
from owl2_jax.training.logging.terminal import console, print_groups


def print_tables(values: Mapping[str, Any], every_leaf: bool) -> None:
    """One table per question; of the shardings only the largest leaves unless `every_leaf`."""
    machine = values["machine"]
    mesh = ", ".join(f"{name} {size}" for name, size in machine["mesh"].items() if size > 1) or "one device"
    print(f"{machine['name'] or str(machine['devices']) + ' device(s)'}: {mesh}\n")
    _print(
        "Parameters",
        ("part", "leaves", "parameters", "stored", "per device"),
        [
            (
                row["part"],
                row["leaves"],
                row["parameters"],
                _size(row["bytes"]),
                _size(row["bytes_per_device"]),
            )
            for row in values["parameters"]
        ],
    )
    print_groups(values["groups"])
    _print_shardings(values["shardings"], every_leaf)
    _print(
        "Memory of a device",
        ("what", "size"),
        [(name, _size(size)) for name, size in values["memory"].items()],
    )
    print("activations are not in it: `owl2 fit` compiles the step and knows them\n")
    _print_flops(values["flops"])


def _print_shardings(leaves: Sequence[Mapping[str, Any]], every_leaf: bool) -> None:
    shown = list(leaves) if every_leaf else sorted(leaves, key=lambda leaf: -leaf["bytes"])[:12]
    title = "Shardings" if every_leaf else f"Shardings of the {len(shown)} largest leaves (--all for all)"
    _print(
        title,
        ("leaf", "shape", "dtype", "mesh axes", "per device", "trains"),
        [
            (
                leaf["name"],
                "x".join(map(str, leaf["shape"])),
                leaf["dtype"],
                leaf["spec"],
                _size(leaf["per_device"]),
                "yes" if leaf["trained"] else "no",
            )
            for leaf in shown
        ],
    )


def _print_flops(work: Mapping[str, Any]) -> None:
    unit, size = flops.unit(work["parts"]["all"]["executed"])
    _print(
        f"{unit} of a step over all devices; steps: {work['steps']:,}",
        ("part", "forward", "backward", "executed"),
        [
            (part, *(f"{row[name] / size:,.2f}" for name in ("forward", "backward", "executed")))
            for part, row in work["parts"].items()
        ],
    )
    if "seconds_at_peak" in work:
        print(
            f"at the chips' peak a step takes {work['seconds_at_peak']:.3f} s and the run "
            f"{work['hours_at_peak']:,.1f} h; divide by the MFU you expect"
        )


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    console().print(table)


def _size(count: float) -> str:
    return f"{count / GIB:,.3f} GiB" if count >= GIB / 100 else f"{count / 2**20:,.3f} MiB"
