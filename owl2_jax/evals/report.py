"""One image of a whole run: loss curves, scores beside their baselines, and answered test images."""

from __future__ import annotations

import random
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_writing import new_file
from owl2_jax.core.json_files import json_lines, read_json
from owl2_jax.core.prompt_format import IMAGE_TAG
from owl2_jax.data import images
from owl2_jax.evals.base import Question
from owl2_jax.evals.registry import BENCHMARKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RIGHT, _WRONG, _SCORE, _BASELINE = "#276749", "#c53030", "#2b6cb0", "#a0aec0"
_COLUMNS, _ROWS = 6, 3
_SEED = 0
# Classes of positions that training reports beside its sets.
# Losses of the same positions another way; the later two are names of older versions.
POSITION_CLASSES = ("with_images", "without_images", "with_pictures", "without_pictures")

# {set: [(step, loss)]}
Curves = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Shown:
    """A test image with what was asked, answered and true."""

    image: bytes
    question: str
    prediction: str
    truth: str

    @property
    def right(self) -> bool:
        """Whether prediction and truth are one text, but for case and spaces around."""
        return self.prediction.strip().lower() == self.truth.strip().lower()


def write_report(run: Path, output: Path) -> None:
    """Draws what lies below a run folder.

    Args:
      run: holds `scores.json`, a folder per benchmark with `results.jsonl`,
        and training runs with `metrics.jsonl`.
      output: PNG file to write.

    Raises:
      Owl2Error: a file is missing or damaged, or matplotlib is not installed.
    """
    figure_class, canvas_class = _matplotlib()
    losses, scores = read_losses(run), read_scores(run)
    shown = pick_examples(run, [score["benchmark"] for score in scores], _COLUMNS * _ROWS)
    figure = figure_class(figsize=(15, 6 + 3.1 * _ROWS), layout="constrained")
    canvas_class(figure)
    top, bottom = figure.subfigures(2, 1, height_ratios=[5.2, 3.1 * _ROWS])
    panels = top.subplots(1, len(losses) + 1, width_ratios=[1] * len(losses) + [1.5])
    for axes, (name, curves) in zip(panels, losses, strict=False):
        _draw_losses(axes, name, curves)
    _draw_scores(panels[-1], scores)
    for axes, example in zip(bottom.subplots(_ROWS, _COLUMNS).flat, shown, strict=False):
        _draw_example(axes, example)
    for axes in bottom.axes:
        axes.set_axis_off()
    with new_file(output) as part:
        figure.savefig(part, dpi=110)


def read_losses(run: Path) -> list[tuple[str, Curves]]:
    """The losses of every training run below `run`, oldest first. Raises `Owl2Error`."""
    files = sorted(run.glob("*/metrics.jsonl"), key=_first_start)
    if not files:
        raise Owl2Error(f"no metrics.jsonl below {run}; expected the folder of a quickstart")
    return [(file.parent.name, _curves(file)) for file in files]


def _first_start(metrics: Path) -> datetime:
    """When a training run began, as its record says."""
    record = metrics.with_name("run.json")
    if not record.is_file():
        raise Owl2Error(f"{record} is missing; expected the record of a training run beside {metrics.name}")
    try:
        return datetime.strptime(read_json(record)["starts"][0]["time"], "%Y-%m-%dT%H:%M:%S%z")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise Owl2Error(
            f"{record} does not tell when the run began ({error!r}); is it a run's own?"
        ) from error


def _curves(file: Path) -> Curves:
    """A curve for each set of the mixture, or one of the whole where the run had a single set."""
    curves: Curves = defaultdict(list)
    whole: list[tuple[int, float]] = []
    for number, row in json_lines(file):
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise Owl2Error(f"{file}, line {number} is no reading of a step; is the file a run's own?")
        for key, value in row.items():
            name = key.removeprefix("loss/")
            if value is None:  # a loss that was not finite
                continue
            if key == "loss":
                whole.append((row["step"], value))
            elif name != key and name not in POSITION_CLASSES:
                curves[name].append((row["step"], value))
    return dict(curves) if len(curves) > 1 else {"loss": whole}


def read_scores(run: Path) -> list[dict[str, Any]]:
    """The entries of `scores.json`. Raises `Owl2Error`."""
    path = run / "scores.json"
    if not path.is_file():
        raise Owl2Error(f"{path} is missing; run owl2 evaluate with --output={run} first")
    entries = read_json(path)
    scores = entries.get("scores") if isinstance(entries, dict) else entries
    if not isinstance(scores, list):
        raise Owl2Error(f"{path} holds no list of scores; run owl2 evaluate with --output={run} again")
    return scores


def pick_examples(run: Path, benchmarks: Sequence[str], count: int) -> list[Shown]:
    """Draws test images at random, evenly over the benchmarks that have any; always the same ones."""
    per_benchmark = [_examples_of(run, name) for name in benchmarks]
    pools = [pool for pool in per_benchmark if pool]
    if not pools:
        raise Owl2Error(f"no answered question with an image below {run}")
    chooser = random.Random(_SEED)
    picked: list[Shown] = []
    for number, pool in enumerate(pools):
        share = (count - len(picked)) // (len(pools) - number)
        picked += chooser.sample(pool, min(share, len(pool)))
    return picked


def _examples_of(run: Path, name: str) -> list[Shown]:
    path = run / name / "results.jsonl"
    if not path.is_file():
        return []
    try:
        rows = {row["id"]: row for _, row in json_lines(path)}
    except (KeyError, TypeError) as error:
        raise Owl2Error(f"{path} has a line that is no answer ({error!r}); evaluate again") from error
    questions = BENCHMARKS[name]().questions(run)
    return [
        Shown(_bytes_of(q), _text_of(q), rows[q.id]["prediction"], str(rows[q.id]["answer"]))
        for q in questions
        if q.images and q.id in rows
    ]


def _bytes_of(question: Question) -> bytes:
    image = question.images[0]
    if isinstance(image, PurePath):
        return images.read_file(image)
    return image if isinstance(image, bytes) else image.read()


def _text_of(question: Question) -> str:
    return question.prompt.replace(IMAGE_TAG, "").strip()


def _draw_losses(axes: Axes, name: str, curves: Curves) -> None:
    for label, points in curves.items():
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, label=label, linewidth=1.2)
    # A question that is learnt falls by a factor of a hundred; a straight scale would hide it.
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_title(name)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per answer token)")
    axes.legend(fontsize=8, loc="lower left")
    axes.grid(alpha=0.3)


def _draw_scores(axes: Axes, scores: Sequence[dict[str, Any]]) -> None:
    for row, score in enumerate(scores):
        best = max(score["baselines"].values(), default=0.0)
        axes.barh(row, score["value"], color=_SCORE, height=0.55)
        axes.barh(row, best, color=_BASELINE, height=0.55, alpha=0.75)
        axes.text(score["value"] + 1, row, f"{score['value']:.1f}", va="center", fontsize=9)
    axes.set_yticks(range(len(scores)), [textwrap.fill(score["title"], 20) for score in scores], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    axes.set_title("accuracy in %\ngrey: best guess without the image", fontsize=11)


def _draw_example(axes: Axes, example: Shown) -> None:
    from PIL import Image

    axes.imshow(images.decode(example.image).resize((144, 144), Image.Resampling.NEAREST))
    question = textwrap.fill(example.question, 30)
    axes.set_title(f"{question}\n{_answer(example)}", fontsize=9, color=_RIGHT if example.right else _WRONG)


def _answer(example: Shown) -> str:
    if example.right:
        return f"✓ {textwrap.fill(example.prediction, 30)}"
    return textwrap.fill(f"✗ {example.prediction} (truth: {example.truth})", 30)


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise Owl2Error("a report needs matplotlib; install it with: pip install 'owl2_jax[plots]'") from None
    return Figure, FigureCanvasAgg
