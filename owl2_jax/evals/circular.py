"""MMBench and CCBench: tables of questions that are asked once for each turn of their options.

A question counts for the circular accuracy when it is right in every turn. The
published files hold the turns as rows of their own, with index + k * 1 000 000;
for a file without them, they are made here. A question with a broken row is left
out with all its turns.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

from owl2_jax.core.overriding import override
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.evals.base import Answered, Question, Summary, percent, percent_by
from owl2_jax.evals.broken import Broken
from owl2_jax.evals.choice import Choice
from owl2_jax.evals.files import DataFile
from owl2_jax.evals.metrics.choice import LETTERS, letter_index
from owl2_jax.evals.rows import left_out, parse_rows
from owl2_jax.evals.tables import read_table
from owl2_jax.evals.xlsx import write_xlsx

# MMBench adds this to a question's index for each turn of its options.
CIRCULAR_STEP = 1_000_000
_LARGEST_INDEX = 10**15
_SHORTEST_IMAGE = 32  # characters of base64; a reference to another row is shorter


class Circular(Choice):
    """MMBench's table.

    A cell of an option that holds nothing is no option, and the others keep their
    letters; every other text is one, "nan" and "NA" too.
    """

    metric = "circular_accuracy"

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path = self.data_file(root)
        rows = read_table(path, "\t", ["index", "question", "A", "B", "image"])
        cells = [{} if isinstance(row, Broken) else row.value for row in rows]
        indices = [_index_or_none(row.get("index")) for row in cells]
        images = {index: row["image"] for index, row in zip(indices, cells, strict=True) if index is not None}
        parsed = list(parse_rows(path, rows, lambda row: self._parse(row, images)))
        broken = {
            index % CIRCULAR_STEP: row
            for index, row in zip(indices, parsed, strict=True)
            if index is not None and isinstance(row, Broken)
        }
        turned = any(index is not None and index >= CIRCULAR_STEP for index in indices)
        first: dict[str, str] = {}
        for question in parsed:
            if isinstance(question, Broken):
                yield question
            elif first.setdefault(question.id, question.row) != question.row:
                yield left_out(question, f"has the index {question.id} again, which {first[question.id]} has")
            elif (base := int(question.id) % CIRCULAR_STEP) in broken:
                yield left_out(question, f"is left out with question {base}: {broken[base].row} is broken")
            else:
                yield question
                if not turned:
                    yield from self._rotations(question)

    def _parse(self, row: dict[str, str], images: Mapping[int, str]) -> Question:
        letters = "".join(letter for letter in LETTERS if row.get(letter, "").strip())
        if not letters:
            raise ValueError("all of its options are empty")
        answer = None
        if _filled(row.get("answer")):
            answer = letter_index(row["answer"], letters)
        elif self.scored_here:
            raise ValueError("it has no answer")
        hint = row["hint"] if _filled(row.get("hint")) else ""
        info = {
            "raw_question": row["question"],
            "raw_hint": hint,
            "category": row.get("l2-category") or row.get("category") or "",
        }
        return self.question(
            str(_index(row["index"])),
            row["question"],
            [row[letter] for letter in letters],
            _image(images, row["image"]),
            answer,
            hint,
            letters,
            **info,
        )

    def _rotations(self, question: Question) -> Iterator[Question]:
        info = dict(question.info)
        options, letters = info.pop("choices"), info.pop("letters")
        for turn in range(1, len(options)):
            answer = None if question.answer is None else (question.answer - turn) % len(options)
            turned = self.question(
                str(int(question.id) + turn * CIRCULAR_STEP),
                info["raw_question"],
                options[turn:] + options[:turn],
                question.images[0],
                answer,
                info["raw_hint"],
                letters,
                **info,
            )
            yield replace(turned, file=question.file, row=question.row)

    @override
    def summarise(self, answered: Sequence[Answered]) -> Summary:
        scores = [answer.score for answer in answered]
        if not scores or None in scores:
            return Summary({}, scores)
        base = [answer.score for answer in answered if int(answer.question.id) < CIRCULAR_STEP]
        groups = _circular(answered, scores)
        metrics = {"accuracy": percent(base)} if base else {}
        metrics[self.metric] = percent(list(groups.values()))
        kinds = {
            int(answer.question.id) % CIRCULAR_STEP: answer.question.info["category"] for answer in answered
        }
        by_kind = percent_by([kinds[index] for index in groups], list(groups.values()))
        return Summary(metrics | by_kind, scores)

    @override
    def features(self, answered, scores):
        return super().features(answered, list(_circular(answered, scores).values()))

    @override
    def export(self, answered: Sequence[Answered], folder: Path) -> list[Path]:
        """The workbook that the server takes: index, question, prediction and options."""
        used = {letter for answer in answered for letter in answer.question.info["letters"]}
        letters = [letter for letter in LETTERS if letter in used or letter in LETTERS[:4]]
        header = ["index", "question", "prediction", *letters]
        rows = [_submission_row(answer, letters) for answer in answered]
        path = folder / f"{Path(self.files[0].path).stem}_submission.xlsx"
        write_xlsx(path, [header, *rows])
        return [path]


def _submission_row(answer: Answered, letters: Sequence[str]) -> list[str | int | None]:
    question = answer.question
    options = dict(zip(question.info["letters"], question.info["choices"], strict=True))
    cells = [options.get(letter) for letter in letters]
    return [int(question.id), question.info["raw_question"], answer.prediction, *cells]


def _circular(answered: Sequence[Answered], scores: Sequence[float]) -> dict[int, float]:
    """1.0 for each base question that is right in all its rotations."""
    groups: dict[int, float] = {}
    for answer, score in zip(answered, scores, strict=True):
        index = int(answer.question.id) % CIRCULAR_STEP
        groups[index] = min(groups.get(index, 1.0), score)
    return groups


def _filled(value: str | None) -> bool:
    """Whether a cell of an answer or a hint holds something; pandas wrote "nan" into empty ones."""
    return value is not None and value.strip() not in ("", "nan")


def _index(cell: str) -> int:
    """The number in a cell, which spreadsheets write as "0.0" too. Raises `ValueError`."""
    try:
        number = Decimal(cell.strip())
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite() or not 0 <= number < _LARGEST_INDEX or number != int(number):
        raise ValueError(f"the index is {cell[:40]!r}; expected a whole number")
    return int(number)


def _index_or_none(cell: str | None) -> int | None:
    try:
        return None if cell is None else _index(cell)
    except ValueError:
        return None


def _image(images: Mapping[int, str], value: str) -> bytes:
    """The image of a cell, which is base64 or the index of the row that holds it."""
    if len(value) < _SHORTEST_IMAGE:
        value = images.get(_index_or_none(value), value)
    data = "".join(value.partition("base64,")[2].split() if value.startswith("data:") else value.split())
    if len(data) < _SHORTEST_IMAGE:
        raise ValueError(f"the image is neither base64 nor the index of another row: it is {value[:40]!r}")
    try:
        return base64.b64decode(data + "=" * (-len(data) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(f"the image is neither base64 nor the index of another row: {error}") from error


class MMBench(Circular):
    """MMBench dev: 1 164 questions of 20 abilities."""

    title = "MMBench dev"
    prompt = PROMPTS["choice_hint"]
    published = 64.5
    files = (DataFile("mmbench/mmbench_dev_20230712.tsv", "github.com/open-compass/MMBench"),)


class MMBenchTest(Circular):
    """MMBench test: answers are secret; writes the workbook that the server scores."""

    title = "MMBench test"
    scored_here = False
    prompt = PROMPTS["choice_hint"]
    files = (DataFile("mmbench/mmbench_test_20230712.tsv", "github.com/open-compass/MMBench"),)


class CCBench(Circular):
    """CCBench: 510 questions about Chinese culture."""

    title = "CCBench"
    prompt = PROMPTS["choice_hint"]
    files = (DataFile("ccbench/CCBench.tsv", "github.com/open-compass/MMBench"),)
