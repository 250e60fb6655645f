"""easy-VQA: its official splits, and captions that follow from its training questions."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

from owl2_jax.data.sources.embedded_records import Record

SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


def read_split(folder: Path, split: str) -> tuple[list[bytes], list[Record]]:
    """Reads the PNG files and the questions of `split` ("train" or "test").

    Image numbers in the records count from 0 within the split.
    """
    root = folder / "easy_vqa/data" / split
    rows = json.loads((root / "questions.json").read_text(encoding="utf-8"))
    count = len(list((root / "images").glob("*.png")))
    images = [(root / "images" / f"{index}.png").read_bytes() for index in range(count)]
    records = [Record(question_kind(answer), question, answer, image) for question, answer, image in rows]
    return images, records


def question_kind(answer: str) -> str:
    """The kind of a question, which its answer gives away."""
    if answer in ("yes", "no"):
        return "yes_no"
    return "shape" if answer in SHAPES else "color"


def captions(records: list[Record]) -> list[Record]:
    """Captions such as "a red circle" for the images whose questions tell both color and shape."""
    known: dict[int, set[str]] = defaultdict(set)
    for record in records:
        known[record.image] |= facts_of(record.question, record.answer)
    result = []
    for image in sorted(known):
        color = [word for word in COLORS if word in known[image]]
        shape = [word for word in SHAPES if word in known[image]]
        if color and shape:
            result.append(Record("shape", "", f"a {color[0]} {shape[0]}", image))
    return result


def facts_of(question: str, answer: str) -> set[str]:
    """The color and shape words that a question and its answer say are true of the image."""
    words = re.findall(r"[a-z]+", question)
    named = {word for word in words if word in SHAPES + COLORS}
    if answer not in ("yes", "no"):
        return named | {answer}
    negated = "not" in words or words[:2] == ["is", "no"]
    return named if (answer == "yes") != negated else set()
