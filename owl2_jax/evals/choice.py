"""Multiple choice about pictures: ScienceQA, A-OKVQA, MMBench, CCBench, SEED-Bench, Q-Bench.

The model generates; the letter or the text of an option is then read out of its
answer. In the result file a prediction is what the model said.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.evals.base import Answered, Benchmark, Picture, Question, Summary, percent, percent_by
from owl2_jax.evals.files import DataFile, parse_rows, read_object, read_rows, read_table
from owl2_jax.evals.metrics.choice import LETTERS, option_lines, parse_choice
from owl2_jax.evals.xlsx import write_xlsx

# MMBench adds this to a question's index for each turn of its options.
CIRCULAR_STEP = 1_000_000


class Choice(Benchmark):
    """A question with lettered options; `answer` is the index of the right one."""

    prompt = PROMPTS["choice"]

    def question(
        self,
        name: str,
        question: str,
        options: Sequence[str],
        picture: Picture,
        answer: int | None,
        hint: str = "",
        **info: Any,
    ) -> Question:
        if answer is not None and not 0 <= answer < len(options):
            raise ValueError(f"the answer is option {answer} of {len(options)}")
        fields = {"question": question, "options": option_lines(options)}
        if "hint" in self.prompt.fields:
            fields["hint"] = hint or "N/A"
        info = {"choices": list(options), **info}
        return Question(name, self.prompt.text(**fields), self.prompt.hash, answer, (picture,), info=info)

    def score(self, question: Question, prediction: str) -> float | None:
        if question.answer is None:
            return None
        return float(parse_choice(prediction, question.info["choices"]) == question.answer)

    def summarise(self, answered: Sequence[Answered]) -> Summary:
        """Accuracy, whole and by `info["category"]` where questions have one."""
        summary = super().summarise(answered)
        kinds = [answer.question.info.get("category") for answer in answered]
        if summary.metrics and None not in kinds:
            summary.metrics.update(percent_by(kinds, summary.scores))
        return summary


class ScienceQA(Choice):
    """ScienceQA test, the 2 017 questions with a picture; the hint stands before the question."""

    title = "ScienceQA-IMG test"
    prompt = PROMPTS["choice_hint"]
    published = 68.7
    files = (
        DataFile("scienceqa/problems.json", "scienceqa.github.io"),
        DataFile("scienceqa/pid_splits.json", "scienceqa.github.io"),
        DataFile("scienceqa/test", "scienceqa.github.io (test images)"),
    )

    def questions(self, root: Path) -> Iterator[Question]:
        path, pictures = self.data_file(root), self.data_file(root, 2)
        problems = read_object(path)

        def parse(name: str) -> Question | None:
            row = problems[name]
            if not row["image"]:
                return None
            return self.question(
                name,
                row["question"],
                row["choices"],
                pictures / name / row["image"],
                row["answer"],
                hint=row["hint"],
                category=row["subject"],
            )

        yield from parse_rows(path, read_rows(self.data_file(root, 1), "test"), parse)


class AOKVQAChoice(Choice):
    """A-OKVQA validation with its four options: 1 145 questions."""

    title = "A-OKVQA val, multiple choice"
    baselines = (("chance", 25.0),)
    files = (
        DataFile("aokvqa/aokvqa_v1p0_val.json", "allenai.org/project/a-okvqa"),
        DataFile("coco/val2017", "cocodataset.org/#download (2017 val images)"),
    )

    def questions(self, root: Path) -> Iterator[Question]:
        path, pictures = self.data_file(root), self.data_file(root, 1)

        def parse(row: dict) -> Question:
            picture = pictures / f"{row['image_id']:012d}.jpg"
            return self.question(
                row["question_id"], row["question"], row["choices"], picture, row["correct_choice_idx"]
            )

        yield from parse_rows(path, read_rows(path), parse)


class Circular(Choice):
    """MMBench's table, asked once for each rotation of the options.

    A question counts for the circular accuracy when it is right in every
    rotation. The published files hold the rotations as rows of their own, with
    index + k * 1 000 000; for a file without them, they are made here.
    """

    metric = "circular_accuracy"

    def questions(self, root: Path) -> Iterator[Question]:
        path = self.data_file(root)
        rows = read_table(path, "\t", ["index", "question", "A", "B", "image"])
        images = {row["index"]: row["image"] for row in rows}
        questions = list(parse_rows(path, rows, lambda row: self._parse(row, images)))
        rotated = any(int(question.id) >= CIRCULAR_STEP for question in questions)
        for question in questions:
            yield question
            if not rotated:
                yield from self._rotations(question)

    def _parse(self, row: dict[str, str], images: dict[str, str]) -> Question:
        options = [row[letter] for letter in LETTERS[:4] if _filled(row.get(letter))]
        answer = LETTERS.index(row["answer"]) if _filled(row.get("answer")) else None
        hint = row["hint"] if _filled(row.get("hint")) else ""
        info = {
            "raw_question": row["question"],
            "raw_hint": hint,
            "category": row.get("l2-category") or row.get("category") or "",
        }
        picture = _picture(images, row["image"])
        return self.question(row["index"], row["question"], options, picture, answer, hint, **info)

    def _rotations(self, question: Question) -> Iterator[Question]:
        info = dict(question.info)
        options = info.pop("choices")
        for turn in range(1, len(options)):
            answer = None if question.answer is None else (question.answer - turn) % len(options)
            yield self.question(
                str(int(question.id) + turn * CIRCULAR_STEP),
                info["raw_question"],
                options[turn:] + options[:turn],
                question.images[0],
                answer,
                info["raw_hint"],
                **info,
            )

    def summarise(self, answered: Sequence[Answered]) -> Summary:
        scores = [answer.score for answer in answered]
        if not scores or None in scores:
            return Summary({}, scores)
        base = [answer for answer in answered if int(answer.question.id) < CIRCULAR_STEP]
        whole = list(_circular(answered, scores).values())
        metrics = {"accuracy": percent([answer.score for answer in base]), self.metric: percent(whole)}
        kinds = [answer.question.info["category"] for answer in base]
        return Summary(metrics | percent_by(kinds, whole), scores)

    def features(self, answered, scores):
        return super().features(answered, list(_circular(answered, scores).values()))

    def export(self, answered: Sequence[Answered], folder: Path) -> list[Path]:
        """The workbook that the server takes: index, question, prediction and options."""
        header = ["index", "question", "prediction", *LETTERS[:4]]
        rows = [self._submission_row(answer) for answer in answered]
        path = folder / f"{Path(self.files[0].path).stem}_submission.xlsx"
        write_xlsx(path, [header, *rows])
        return [path]

    def _submission_row(self, answer: Answered) -> list[str | int | None]:
        question = answer.question
        options = question.info["choices"]
        padded = options + [None] * (4 - len(options))
        return [int(question.id), question.info["raw_question"], answer.prediction, *padded]


def _circular(answered: Sequence[Answered], scores: Sequence[float]) -> dict[int, float]:
    """1.0 for each base question that is right in all its rotations."""
    groups: dict[int, float] = {}
    for answer, score in zip(answered, scores, strict=True):
        index = int(answer.question.id) % CIRCULAR_STEP
        groups[index] = min(groups.get(index, 1.0), score)
    return groups


def _filled(value: str | None) -> bool:
    """Whether a cell holds something; the files were written by pandas, which leaves "nan"."""
    return value is not None and value.strip() not in ("", "nan")


def _picture(images: dict[str, str], value: str) -> bytes:
    """The picture of a cell, which is base64 or the index of the row that holds it."""
    if len(value) < 16 and value in images:
        value = images[value]
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise Owl2Error(f"a picture is neither base64 nor the index of another row: {error}") from error


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


class SeedBench(Choice):
    """SEED-Bench, the nine tasks on still pictures (14 233 questions)."""

    title = "SEED-Bench image"
    baselines = (("chance", 25.0),)
    published = 57.8
    files = (
        DataFile("seed_bench/SEED-Bench.json", "github.com/AILab-CVC/SEED-Bench"),
        DataFile("seed_bench/SEED-Bench-image", "github.com/AILab-CVC/SEED-Bench"),
    )

    def questions(self, root: Path) -> Iterator[Question]:
        path, pictures = self.data_file(root), self.data_file(root, 1)
        names = {number: name for name, number in read_object(path, "question_type").items()}

        def parse(row: dict) -> Question | None:
            if row["data_type"] != "image":
                return None
            return self.question(
                str(row["question_id"]),
                row["question"],
                [row[f"choice_{letter}"] for letter in "abcd"],
                pictures / row["data_id"],
                LETTERS.index(row["answer"]),
                category=names[row["question_type_id"]],
            )

        yield from parse_rows(path, read_rows(path, "questions"), parse)


class QBench(Choice):
    """Q-Bench, low-level perception (LLVisionQA dev): 1 495 questions about picture quality."""

    title = "Q-Bench dev"
    published = 62.9
    files = (
        DataFile("qbench/llvisionqa_dev.json", "github.com/Q-Future/Q-Bench"),
        DataFile("qbench/images", "github.com/Q-Future/Q-Bench"),
    )

    def questions(self, root: Path) -> Iterator[Question]:
        path, pictures = self.data_file(root), self.data_file(root, 1)

        def parse(item: tuple[int, dict]) -> Question:
            index, row = item
            picture, options = pictures / row["img_path"], row["candidates"]
            return self.question(
                str(index), row["question"], options, picture, options.index(row["correct_ans"])
            )

        yield from parse_rows(path, enumerate(read_rows(path)), parse)
