"""Tables of what a forecast step consists of."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

from owl2_jax.perf.forecast import Forecast, Group, Op, groups

DEAREST: Final = 20
LEFT_OUT: Final = {
    "bound": "all but products at the chip's peak, bytes of memory, and collectives that nothing overlaps",
    "forecast": "the latency of starting a collective; input, dispatch and checkpoints",
}


def as_dict(found: Forecast, peak: float) -> dict[str, Any]:
    """JSON types; `peak` in FLOPs per second of a chip."""
    return {
        "groups": [
            {
                "part": group.part,
                "kind": group.kind,
                "seconds": group.seconds,
                "share": group.seconds / found.seconds,
                "of_peak": of_peak(group, peak),
            }
            for group in groups(found.ops)
        ],
        "dearest": [
            {
                "name": op.name,
                "part": op.part,
                "kind": op.kind,
                "scope": op.scope,
                "line": op.line,
                "times": op.times,
                "seconds": op.seconds,
                "share": op.seconds / found.seconds,
                "of_peak": of_peak(op, peak),
            }
            for op in found.ops[:DEAREST]
        ],
    }


def of_peak(item: Op | Group, peak: float) -> float | None:
    """Achieved share of the peak, or None for what holds no matrix product."""
    return item.flops / item.seconds / peak if item.flops and item.seconds else None


def print_ops(found: Forecast, peak: float) -> None:
    """By part and kind, and the dearest operations with their source lines."""
    print(f"\n{'part of the model':20}{'kind':14}{'ms':>10}{'share':>8}{'of peak':>9}")
    for group in groups(found.ops):
        print(
            f"{group.part:20}{group.kind:14}{group.seconds * 1e3:10.2f}{group.seconds / found.seconds:8.1%}"
            f"{_percent(of_peak(group, peak)):>9}"
        )
    by_part: dict[str, float] = defaultdict(float)
    for op in found.ops:
        by_part[op.part] += op.seconds
    parts = sorted(by_part.items(), key=lambda item: -item[1])
    print("  " + ", ".join(f"{part} {seconds / found.seconds:.1%}" for part, seconds in parts))
    print(f"\nthe {DEAREST} dearest operations")
    for op in found.ops[:DEAREST]:
        print(
            f"{op.seconds * 1e3:10.2f} ms {op.seconds / found.seconds:6.1%} {op.times:5} times "
            f"{_percent(of_peak(op, peak)):>7}  {op.kind:12} {short(op)}"
        )


def short(op: Op) -> str:
    """Where an operation stands in the model and in the source."""
    path = op.scope.split("/layers/")[-1] if "/layers/" in op.scope else op.scope.rpartition("/while/")[2]
    return f"{op.part}: {path[-70:] or op.name}" + (f" ({op.line})" if op.line else "")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
