"""Charts of scores: bars on each benchmark's own scale, and a radar against published scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_writing import new_file
from owl2_jax.evals.results import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RADAR_AXES = 3
_OURS, _PUBLISHED, _BASELINE = "#2b6cb0", "#dd6b20", "#1a202c"


def write_charts(scores: Sequence[Score], folder: Path) -> list[Path]:
    """Writes bars.png, and radar.png where enough scores have a published one; returns their paths."""
    written = []
    if any(score.value is not None for score in scores):
        bar_chart(scores, folder / "bars.png")
        written.append(folder / "bars.png")
    if len(_comparable(scores)) >= _RADAR_AXES:
        radar_chart(scores, folder / "radar.png")
        written.append(folder / "radar.png")
    return written


def bar_chart(scores: Sequence[Score], path: Path) -> None:
    """Writes an image with a bar for each score, its interval, and marks for baselines and published.

    Raises:
      Owl2Error: No score has a value, or matplotlib is missing.
    """
    scores = [score for score in scores if score.value is not None]
    if not scores:
        raise Owl2Error("there is no score to draw; all of them wait for a server or a judge")
    figure, axes = _figure((8.0, 1.2 + 0.4 * len(scores)))
    for row, score in enumerate(scores):
        low, high = (100 * bound / score.scale for bound in score.interval)
        share = 100 * score.value / score.scale
        axes.barh(row, share, color=_OURS, height=0.6)
        axes.plot([low, high], [row, row], color="black", linewidth=1)
        for value in score.baselines.values():
            axes.plot([100 * value / score.scale] * 2, [row - 0.42, row + 0.42], ":", color=_BASELINE)
        if score.published is not None:
            axes.plot(100 * score.published / score.scale, row, "D", color=_PUBLISHED, markersize=6)
        axes.text(101, row, f"{score.value:.1f}", va="center", fontsize=9)
    axes.set_yticks(range(len(scores)), [f"{score.title} ({score.metric})" for score in scores])
    axes.set_ylim(len(scores) - 0.4, -0.6)
    axes.set_xlim(0, 112)
    axes.set_xlabel("percent of the scale")
    axes.plot([], [], "D", color=_PUBLISHED, label="published")
    axes.plot([], [], ":", color=_BASELINE, label="baselines")
    axes.plot([], [], color="black", linewidth=1, label="95 % interval")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    with new_file(path) as part:
        figure.savefig(part, dpi=150, bbox_inches="tight")


def radar_chart(scores: Sequence[Score], path: Path) -> None:
    """Writes an image of each score as a share of the published one, which is the outer ring.

    Raises:
      Owl2Error: Fewer than three scores have a published one, or matplotlib is missing.
    """
    scores = _comparable(scores)
    if len(scores) < _RADAR_AXES:
        raise Owl2Error(
            f"a radar needs three benchmarks with published scores, found {len(scores)}; draw bars instead"
        )
    angles = [2 * math.pi * index / len(scores) for index in range(len(scores))]
    shares = [score.value / score.published for score in scores]
    figure, axes = _figure((7.0, 7.0), projection="polar")
    closed = [*angles, angles[0]]
    axes.plot(closed, [1.0] * len(closed), color=_PUBLISHED, label="published")
    axes.plot(closed, [*shares, shares[0]], color=_OURS, label="this model")
    axes.fill(closed, [*shares, shares[0]], color=_OURS, alpha=0.25)
    axes.set_xticks(angles, [""] * len(scores))
    outside = max(1.1, 1.05 * max(shares))
    for angle, score in zip(angles, scores, strict=True):
        _label(axes, angle, 1.04 * outside, score)
    axes.set_yticklabels([])
    axes.set_ylim(0, outside)
    axes.legend(loc="lower right", bbox_to_anchor=(1.15, -0.1))
    with new_file(path) as part:
        figure.savefig(part, dpi=150, bbox_inches="tight")


def _label(axes: Axes, angle: float, radius: float, score: Score) -> None:
    """Writes away from the circle: to its right on the right side, to its left on the left."""
    across, up = math.cos(angle), math.sin(angle)
    side = "center" if abs(across) < 0.2 else "left" if across > 0 else "right"
    height = "center" if abs(up) < 0.5 else "bottom" if up > 0 else "top"
    title = score.title.partition(",")[0]
    text = f"{title}\n{score.value:.1f} / {score.published:g}"
    axes.text(angle, radius, text, ha=side, va=height, fontsize=8)


def _comparable(scores: Sequence[Score]) -> list[Score]:
    return [score for score in scores if score.value is not None and score.published]


def require_matplotlib() -> None:
    """Raises `Owl2Error` when matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise Owl2Error("charts need matplotlib; install the extra: pip install 'owl2_jax[plots]'") from error


def _figure(size: tuple[float, float], **axes: Any) -> tuple[Figure, Axes]:
    """A figure that belongs to no window system and no global state."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    return figure, figure.add_subplot(**axes)
