"""Histograms as SVG, without a plotting library."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 320, 110, 6, 18


def histogram(values: Sequence[float], title: str, bins: int = 32, limit: float | None = None) -> str:
    """An SVG histogram of numbers, with the counts on hover.

    Args:
      title: as HTML.
      bins: most bars; whole numbers get no more than one bar each.
      limit: drawn as a line, for example the length of a row.
    """
    if not len(values):
        return f'<figure><figcaption>{title}</figcaption><p class="none">none</p></figure>'
    data = np.asarray(values, float)
    edges, step = _edges(data, bins, limit)
    counts, _ = np.histogram(data, edges)
    scale = (_WIDTH - 2 * _LEFT) / (edges[-1] - edges[0])
    floor = _HEIGHT - _BOTTOM
    drawn = []
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        # A single record among thousands must still be seen.
        height = max((floor - 4) * count / counts.max(), 1.5) if count else 0
        x, width = _LEFT + (low - edges[0]) * scale, max((high - low) * scale - 0.5, 0.5)
        drawn.append(
            f'<rect x="{x:.1f}" y="{floor - height:.1f}" width="{width:.1f}" height="{height:.1f}">'
            f"<title>{_span(low, high, step)}: {count}</title></rect>"
        )
    if limit is not None:
        x = _LEFT + (limit + step / 2 - edges[0]) * scale
        drawn.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{floor}"/>')
    middle = f"median {_number(float(np.median(data)))}, mean {_number(float(data.mean()))}"
    places = [(_LEFT, "start", _number(data.min())), (_WIDTH / 2, "middle", middle)]
    places.append((_WIDTH - _LEFT, "end", _number(edges[-1] - step)))
    for x, anchor, text in places:
        drawn.append(f'<text x="{x:.0f}" y="{_HEIGHT - 4}" text-anchor="{anchor}">{text}</text>')
    return (
        f'<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" role="img">{"".join(drawn)}</svg></figure>'
    )


def _edges(data: np.ndarray, bins: int, limit: float | None) -> tuple[np.ndarray, int]:
    """Edges of the bars, and 1 where each bar holds whole numbers up to just below the next edge."""
    low, high = float(data.min()), float(data.max())
    high = max(high, limit or high)
    if not (data == np.round(data)).all():
        return np.linspace(low, max(high, low + 1e-6), bins + 1), 0
    width = int(np.ceil((high + 1 - low) / bins))
    return np.arange(low, high + 1 + width, width), 1


def _span(low: float, high: float, step: int) -> str:
    return _number(low) if high - step == low else f"{_number(low)} to {_number(high - step)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.3g}"
