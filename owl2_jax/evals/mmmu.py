"""MMMU validation: 900 college questions in 30 subjects, pictures inside the text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from owl2_jax.data.prompts import IMAGE_TAG, PROMPTS
from owl2_jax.evals.base import Answered, Benchmark, Decoding, Question, Summary, percent, percent_by
from owl2_jax.evals.files import DataFile, parse_rows, read_parquet
from owl2_jax.evals.metrics.choice import LETTERS, option_lines, parse_choice
from owl2_jax.evals.metrics.open_answers import open_answer_matches

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
_PICTURE = re.compile(r"<image (\d+)>")
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

    def questions(self, root: Path) -> Iterator[Question]:
        for path in [file.require(root) for file in self.files]:
            yield from parse_rows(path, read_parquet(path, _COLUMNS), partial(_question, path.parent.name))

    def score(self, question: Question, prediction: str) -> float:
        choices = question.info["choices"]
        if choices:
            chosen = parse_choice(prediction, choices)
            return float(chosen is not None and LETTERS[chosen] == question.answer)
        return float(open_answer_matches(prediction, question.answer))

    def summarise(self, answered: Sequence[Answered]) -> Summary:
        """Accuracy over all questions, by the six categories, by subject."""
        scores = [answer.score for answer in answered]
        subjects = [answer.question.info["subject"] for answer in answered]
        categories = [_CATEGORY_OF[subject] for subject in subjects]
        by_part = percent_by(categories, scores) | percent_by(subjects, scores)
        return Summary({self.metric: percent(scores), **by_part}, scores)


def _question(subject: str, row: dict[str, Any]) -> Question:
    options = ast.literal_eval(row["options"]) if row["question_type"] == "multiple-choice" else []
    if row["question_type"] == "multiple-choice":
        prompt = PROMPTS["mmmu_choice"]
        text = prompt.text(question=row["question"], options=option_lines(options))
        answer: Any = row["answer"]
    else:
        prompt = PROMPTS["mmmu_open"]
        text = prompt.text(question=row["question"])
        answer = _accepted(row["answer"])
    # Pictures follow the order in which the text names them, as often as it names them.
    images = tuple(row[f"image_{number}"]["bytes"] for number in _PICTURE.findall(text))
    info = {"choices": options, "subject": subject}
    return Question(row["id"], _PICTURE.sub(IMAGE_TAG, text), prompt.hash, answer, images, info=info)


def _accepted(answer: str) -> list[str]:
    """Open answers are a text or a Python list of texts."""
    if answer.startswith("["):
        return [str(item) for item in ast.literal_eval(answer)]
    return [answer]
