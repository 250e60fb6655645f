"""MMMU validation: 900 college questions in 30 subjects, images inside the text."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from owl2_jax.core.overriding import override
from owl2_jax.core.prompt_format import IMAGE_TAG
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.evals.base import Answered, Benchmark, Decoding, Question, Summary, percent, percent_by
from owl2_jax.evals.broken import Broken
from owl2_jax.evals.files import DataFile
from owl2_jax.evals.metrics.choice import LETTERS, letter_index, option_lines, parse_choice
from owl2_jax.evals.metrics.open_answers import open_answer_matches
from owl2_jax.evals.rows import identifier, parse_rows, text
from owl2_jax.evals.tables import read_parquet

CATEGORIES = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Psychology", "Sociology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
_CATEGORY_OF = {subject: category for category, subjects in CATEGORIES.items() for subject in subjects}
_IMAGE = re.compile(r"<image (\d+)>")
_COLUMNS = ("id", "question", "options", "answer", "question_type", "image_1")


class MMMU(Benchmark):
    """Multiple choice by letter, open questions by a word or number; micro average over questions."""

    title = "MMMU val"
    prompt = PROMPTS["mmmu_choice"]
    decoding = Decoding(max_new_tokens=20)
    published = 32.7
    published_note = "outside report"
    files = tuple(
        DataFile(
            f"mmmu/{subject}/validation-00000-of-00001.parquet",
            f"mmmu-benchmark.github.io (folder {subject})",
        )
        for subject in sorted(_CATEGORY_OF)
    )

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        for path in [file.require(root) for file in self.files]:
            yield from parse_rows(
                path, read_parquet(path, _COLUMNS), partial(read_question, path.parent.name)
            )

    @override
    def score(self, question: Question, prediction: str) -> float:
        choices = question.info["choices"]
        if choices:
            chosen = parse_choice(prediction, choices)
            return float(chosen is not None and LETTERS[chosen] == question.answer)
        return float(open_answer_matches(prediction, question.answer))

    @override
    def summarise(self, answered: Sequence[Answered]) -> Summary:
        """Accuracy over all questions, by the six categories, by subject."""
        scores = [answer.score for answer in answered]
        subjects = [answer.question.info["subject"] for answer in answered]
        categories = [_CATEGORY_OF[subject] for subject in subjects]
        by_part = percent_by(categories, scores) | percent_by(subjects, scores)
        return Summary({self.metric: percent(scores), **by_part}, scores)


def read_question(subject: str, row: dict[str, Any]) -> Question:
    """The question of a row. Raises `ValueError` and `KeyError` for a broken one; see `parse_rows`."""
    question, answer = text(row["question"], "the question"), text(row["answer"], "the answer")
    options: list[str] = []
    if row["question_type"] == "multiple-choice":
        options = _options(text(row["options"], "the options"))
        prompt = PROMPTS["mmmu_choice"]
        prompted = prompt.text(question=question, options=option_lines(options))
        letters = LETTERS[: len(options)]
        accepted: Any = letters[letter_index(answer, letters)]
    elif row["question_type"] == "open":
        prompt = PROMPTS["mmmu_open"]
        prompted = prompt.text(question=question)
        accepted = _accepted(answer)
    else:
        raise ValueError(f"question_type is {row['question_type']!r}; expected multiple-choice or open")
    # Images follow the order in which the text names them, as often as it names them.
    images = tuple(_image(row, number) for number in _IMAGE.findall(prompted))
    info = {"choices": options, "subject": subject}
    name = identifier(row["id"], "the id")
    return Question(name, _IMAGE.sub(IMAGE_TAG, prompted), prompt.hash, accepted, images, info=info)


def _image(row: dict[str, Any], number: str) -> bytes:
    image = row[f"image_{number}"]
    if not isinstance(image, dict) or not isinstance(image.get("bytes"), bytes):
        raise ValueError(f"the text names <image {number}>, and image_{number} holds no image")
    return image["bytes"]


def _options(written: str) -> list[str]:
    """Options are published as a Python list of texts or numbers."""
    options = _python_list(written)
    if options is None or not all(type(option) in (str, int, float) for option in options):
        raise ValueError(f"the options are {written[:60]!r}; expected a list of texts")
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"it has {len(options)} options; expected 2 to {len(LETTERS)}")
    return [str(option) for option in options]


def _accepted(answer: str) -> list[str]:
    """Open answers are a text or a Python list of texts; "[H+]" and "[0, 1]" are texts."""
    options = _python_list(answer)
    if options and all(isinstance(option, str) for option in options):
        return options
    return [answer]


def _python_list(written: str) -> list[Any] | None:
    """The list that a text spells in Python, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of "\\sigma", which is no escape and stays as it is
            value = ast.literal_eval(written.strip()) if written.strip().startswith("[") else None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list) else None
