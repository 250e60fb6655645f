"""The page of `owl2 fit --html`: where a forecast step spends its time, as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from owl2_jax.perf.forecast import Forecast, Group, Op, groups
from owl2_jax.perf.op_report import DEAREST, of_peak, short

_WIDTH: Final = 1000.0
_HEIGHT: Final = 560.0
_GAP: Final = 2.0
# Kinds share their colours on the map, in the table and in the key.
_COLOURS: Final = {
    "product": "#2f6fb2",
    "kernel": "#7a55b3",
    "network": "#b4483c",
    "memory": "#b07a1e",
    "norm": "#2e8272",
    "elementwise": "#4d8a3d",
    "layout copy": "#a8467e",
    "convert": "#8a6a4a",
    "cut": "#6b7482",
    "fill": "#566a8f",
}
_STYLE: Final = """
:root { --ink: #1d2733; --soft: #5c6878; --line: #dde3ea; --page: #ffffff; --bar: #e8edf3;
  color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9f0; --soft: #9aa7b8; --line: #323b47; --page: #14181e; --bar: #262e38; }
}
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  margin: 0 auto; padding: 24px; max-width: 1120px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 28px 0 8px; }
p { margin: 0 0 8px; } .soft { color: var(--soft); font-size: 13px; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 230px), 1fr)); gap: 12px; }
.numbers div { border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.numbers b { display: block; font-size: 22px; font-weight: 600; }
.map { position: relative; width: 100%; padding-top: 56%; }
.map div { position: absolute; overflow: hidden; color: #fff; font-size: 12px; line-height: 1.25;
  border-radius: 2px; }
.map span { display: block; padding: 3px 5px; }
.key { display: flex; flex-wrap: wrap; gap: 4px 14px; margin: 10px 0 0; padding: 0; list-style: none; }
.key li { font-size: 13px; } .key i, td i.dot { display: inline-block; width: 10px; height: 10px;
  border-radius: 2px; margin-right: 5px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
td, th { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); text-align: left; }
td, th { vertical-align: top; }
th { color: var(--soft); font-weight: 500; font-size: 12px; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { background: var(--bar); border-radius: 2px; height: 9px; min-width: 60px; margin-top: 7px; }
.bar i { display: block; height: 100%; border-radius: 2px; }
.where { overflow-wrap: anywhere; }
@media (max-width: 640px) {
  body { padding: 14px; } .map { padding-top: 130%; } .wide { display: none; }
  .map div { font-size: 10px; } .map span { padding: 2px 3px; }
}
"""


@dataclass(frozen=True)
class Box:
    """A rectangle of the map, in shares of its width and height."""

    x: float
    y: float
    width: float
    height: float


def render(title: str, values: dict[str, Any], found: Forecast, peak: float) -> str:
    """The page of one program.

    Args:
      title: what was compiled, and for which slice.
      values: `fit_report.as_dict` of it.
      peak: FLOPs per second of a chip.
    """
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(_subtitle(values))}</p>',
        _numbers(values),
        "<h2>Where the time goes</h2>",
        _map(found),
        _key(found),
        "<h2>By part of the model and kind</h2>",
        _groups(found, peak),
        f"<h2>The {DEAREST} dearest operations</h2>",
        _dearest(found, peak),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n"
        "</body></html>\n"
    )


def squarify(sizes: Sequence[float], box: Box) -> list[Box]:
    """Rectangles with areas in proportion to `sizes` (largest first) that fill a box, near to squares.

    Rows are filled along the shorter side as long as that makes their worst
    rectangle squarer (Bruls, Huizing and van Wijk 2000).
    """
    total = sum(sizes)
    if not sizes or total <= 0:
        return []
    # Squares of the page, where the map is wider than it is high.
    areas = [size / total * box.width * _WIDTH * box.height * _HEIGHT for size in sizes]
    left, top, width, height = box.x * _WIDTH, box.y * _HEIGHT, box.width * _WIDTH, box.height * _HEIGHT
    done: list[Box] = []
    while areas:
        side = min(width, height)
        count = 1
        while count < len(areas) and _worst(areas[: count + 1], side) <= _worst(areas[:count], side):
            count += 1
        row, areas = areas[:count], areas[count:]
        thick = sum(row) / side
        along = 0.0
        for area in row:
            long = area / thick
            x, y, w, h = (
                (left, top + along, thick, long) if width >= height else (left + along, top, long, thick)
            )
            done.append(Box(x / _WIDTH, y / _HEIGHT, w / _WIDTH, h / _HEIGHT))
            along += long
        if width >= height:
            left, width = left + thick, width - thick
        else:
            top, height = top + thick, height - thick
    return done


def _worst(row: Sequence[float], side: float) -> float:
    """The worst ratio of sides in a row of areas along a side."""
    total = sum(row)
    return max(max(side**2 * area / total**2, total**2 / (side**2 * area)) for area in row)


def _subtitle(values: dict[str, Any]) -> str:
    versions = values.get("versions")
    by = f" by libtpu {versions['libtpu']} (jax {versions['jax']})" if versions else ""
    mesh = ", ".join(f"{name} {size}" for name, size in values["mesh"].items() if size > 1) or "one chip"
    return (
        f"{values['rows']} rows of {values['length']} tokens, {values['images']} images; {mesh}; "
        f"remat {values['remat']}, accumulation {values['accumulation']}, {values['attention']} attention; "
        f"compiled in {values['compile_seconds']} s{by}"
    )


def _numbers(values: dict[str, Any]) -> str:
    ahead, line, memory = values["forecast"], values["roofline"], values["memory"]
    boxes = [
        (
            f"{ahead['step_seconds']:.3f} s",
            f"forecast, MFU {ahead['mfu']:.1%}",
            f"without {ahead['left_out']['forecast']}",
        ),
        (
            f"{line['step_seconds']:.3f} s",
            f"bound, MFU {line['mfu_bound']:.1%}",
            f"without {ahead['left_out']['bound']}",
        ),
        (
            f"{memory['needed'] / 2**30:.2f} GiB",
            f"of {memory['capacity'] / 2**30:.2f} GiB per chip",
            "arguments, results and temporary arrays",
        ),
    ]
    cells = "".join(
        f'<div><b>{escape(number)}</b>{escape(what)}<br><span class="soft">{escape(note)}</span></div>'
        for number, what, note in boxes
    )
    return f'<div class="numbers">{cells}</div>'


def _map(found: Forecast) -> str:
    """Boxes of the parts, filled with boxes of their kinds."""
    parts: dict[str, list[Group]] = {}
    for group in groups(found.ops):
        parts.setdefault(group.part, []).append(group)
    ordered = sorted(parts.items(), key=lambda item: -sum(group.seconds for group in item[1]))
    outer = squarify([sum(g.seconds for g in each) for _, each in ordered], Box(0, 0, 1, 1))
    cells = [
        _cell(group, box, found.seconds)
        for (_, each), place in zip(ordered, outer, strict=True)
        for group, box in zip(each, squarify([g.seconds for g in each], place), strict=True)
    ]
    return f'<div class="map" role="img" aria-label="map of the step\'s time">{"".join(cells)}</div>'


def _cell(group: Group, box: Box, total: float) -> str:
    share = group.seconds / total
    words = f"{group.part}: {group.kind}"
    # A box too small for its words has them where the pointer rests.
    shown = f"<span>{escape(words)}<br>{share:.1%}</span>" if min(box.width, box.height) > 0.07 else ""
    style = (
        f"left:{box.x:.3%};top:{box.y:.3%};width:calc({box.width:.3%} - {_GAP}px);"
        f"height:calc({box.height:.3%} - {_GAP}px);background:{_COLOURS[group.kind]}"
    )
    title = f"{escape(words)}, {group.seconds * 1e3:.2f} ms, {share:.1%}"
    return f'<div style="{style}" title="{title}">{shown}</div>'


def _key(found: Forecast) -> str:
    kinds: dict[str, float] = {}
    for group in groups(found.ops):
        kinds[group.kind] = kinds.get(group.kind, 0.0) + group.seconds
    items = "".join(
        f'<li><i style="background:{_COLOURS[kind]}"></i>{escape(kind)} {seconds / found.seconds:.1%}</li>'
        for kind, seconds in sorted(kinds.items(), key=lambda item: -item[1])
    )
    return f'<ul class="key">{items}</ul>'


def _groups(found: Forecast, peak: float) -> str:
    every = groups(found.ops)
    longest = every[0].seconds if every else 1.0
    rows = "".join(
        f"<tr><td>{escape(group.part)}</td><td>{_dot(group.kind)}{escape(group.kind)}</td>"
        f"{_cells(group, found, peak)}"
        f'<td class="wide"><div class="bar"><i style="width:{group.seconds / longest:.1%};'
        f'background:{_COLOURS[group.kind]}"></i></div></td></tr>'
        for group in every
    )
    head = (
        '<th>part</th><th>kind</th><th class="number">ms</th><th class="number">share</th>'
        '<th class="number">of peak</th><th class="wide"></th>'
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _dearest(found: Forecast, peak: float) -> str:
    rows = "".join(
        f'<tr><td class="where">{_dot(op.kind)}{escape(short(op))}</td>{_number(str(op.times), wide=True)}'
        f"{_cells(op, found, peak)}</tr>"
        for op in found.ops[:DEAREST]
    )
    head = (
        '<th>operation</th><th class="number wide">times</th><th class="number">ms</th>'
        '<th class="number">share</th><th class="number">of peak</th>'
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _cells(item: Op | Group, found: Forecast, peak: float) -> str:
    """Milliseconds, share of the step and, for products, share of the peak."""
    share = of_peak(item, peak)
    numbers = (
        f"{item.seconds * 1e3:.2f}",
        f"{item.seconds / found.seconds:.1%}",
        "" if share is None else f"{share:.0%}",
    )
    return "".join(map(_number, numbers))


def _number(text: str, wide: bool = False) -> str:
    return f'<td class="number{" wide" if wide else ""}">{text}</td>'


def _dot(kind: str) -> str:
    return f'<i class="dot" style="background:{_COLOURS[kind]}"></i>'
