"""Free answers that a stronger model judges: MM-Vet and MMHal-Bench.

A run writes the file that the authors' judge script reads. The judge's output
is read back by `owl2 evaluate --judgements NAME=FILE`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.evals.base import Answered, Decoding, Judged, Question, Summary, percent, percent_by
from owl2_jax.evals.files import DataFile, parse_rows, read_object, read_rows

_RATING = re.compile(r"rating:\s*\**\s*([0-6])\b", re.IGNORECASE)
# A rating below 3 means that the answer holds a hallucination.
_HALLUCINATES_BELOW = 3


class FreeAnswer(Judged):
    """A question as it is, answered at length."""

    prompt = PROMPTS["question"]
    decoding = Decoding(max_new_tokens=512)
    scored_here = False

    def question(self, name: str, question: str, picture: Path, answer: str, **info: Any) -> Question:
        text = self.prompt.text(question=question)
        return Question(name, text, self.prompt.hash, answer, (picture,), info=info)

    def score(self, question: Question, prediction: str) -> None:
        return None

    def summarise(self, answered: Sequence[Answered]) -> Summary:
        """Nothing to sum up before the judge has spoken."""
        return Summary({}, [None] * len(answered))


class MMVet(FreeAnswer):
    """MM-Vet: 218 questions that need several abilities at once."""

    title = "MM-Vet"
    metric = "total"
    published = 36.2
    files = (
        DataFile("mm-vet/mm-vet.json", "github.com/yuweihao/MM-Vet (mm-vet.zip)"),
        DataFile("mm-vet/images", "github.com/yuweihao/MM-Vet (mm-vet.zip)"),
    )

    def questions(self, root: Path) -> Iterator[Question]:
        path, pictures = self.data_file(root), self.data_file(root, 1)

        def parse(item: tuple[str, dict]) -> Question:
            name, row = item
            picture = pictures / row["imagename"]
            return self.question(name, row["question"], picture, row["answer"], capability=row["capability"])

        yield from parse_rows(path, read_object(path).items(), parse)

    def export(self, answered: Sequence[Answered], folder: Path) -> list[Path]:
        """The input of mm-vet_evaluator: an object of answers by question."""
        path = folder / "mm-vet_answers.json"
        answers = {answer.question.id: answer.prediction for answer in answered}
        path.write_text(json.dumps(answers, indent=2, ensure_ascii=False), encoding="utf-8")
        return [path]

    def judged(self, answered: Sequence[Answered], judgements: Path) -> Summary:
        """Reads the evaluator's `*-grade-*runs.json`: {id: {"score": [one for each run]}}."""
        grades = read_object(judgements)
        scores = list(parse_rows(judgements, answered, lambda answer: _mean_grade(grades, answer)))
        kinds = [
            (kind, score)
            for answer, score in zip(answered, scores, strict=True)
            for kind in answer.question.info["capability"]
        ]
        by_kind = percent_by([kind for kind, _ in kinds], [score for _, score in kinds])
        return Summary({self.metric: percent(scores), **by_kind}, scores)


def _mean_grade(grades: dict[str, dict], answer: Answered) -> float:
    runs = grades[answer.question.id]["score"]
    if not runs or not all(0 <= grade <= 1 for grade in runs):
        raise ValueError(f"question {answer.question.id} needs grades from 0 to 1, found {runs}")
    return sum(runs) / len(runs)


class MMHalBench(FreeAnswer):
    """MMHal-Bench: 96 questions that invite hallucination, rated 0 to 6 by the judge."""

    title = "MMHal-Bench"
    metric = "rating"
    scale = 6.0
    files = (
        DataFile("mmhal-bench/response_template.json", "MMHal-Bench (Shengcao1006, test_data.zip)"),
        DataFile("mmhal-bench/images", "MMHal-Bench (Shengcao1006, test_data.zip)"),
    )

    def questions(self, root: Path) -> Iterator[Question]:
        path, pictures = self.data_file(root), self.data_file(root, 1)

        def parse(item: tuple[int, dict]) -> Question:
            index, row = item
            picture = pictures / PurePosixPath(row["image_src"]).name
            return self.question(str(index), row["question"], picture, row["gt_answer"], row=row)

        yield from parse_rows(path, enumerate(read_rows(path)), parse)

    def export(self, answered: Sequence[Answered], folder: Path) -> list[Path]:
        """The authors' template with `model_answer` filled in."""
        rows = [{**answer.question.info["row"], "model_answer": answer.prediction} for answer in answered]
        path = folder / "mmhal-bench_responses.json"
        path.write_text(json.dumps(rows, indent=2, ensure_ascii=False), encoding="utf-8")
        return [path]

    def judged(self, answered: Sequence[Answered], judgements: Path) -> Summary:
        """Reads the judge's replies: a list of texts, or of chat completions, in order."""
        replies = read_rows(judgements)
        if len(replies) != len(answered):
            raise Owl2Error(f"{judgements} holds {len(replies)} judgements; expected {len(answered)}")
        ratings = list(parse_rows(judgements, replies, _rating))
        below = [float(rating < _HALLUCINATES_BELOW) for rating in ratings]
        kinds = [answer.question.info["row"]["question_type"] for answer in answered]
        by_kind = {kind: value / 100 for kind, value in percent_by(kinds, ratings).items()}
        metrics = {"rating": percent(ratings) / 100, "hallucination_rate": percent(below), **by_kind}
        return Summary(metrics, ratings)

    def headline(self, means) -> float:
        return float(means[0])


def _rating(reply: str | dict) -> float:
    text = reply if isinstance(reply, str) else reply["choices"][0]["message"]["content"]
    found = _RATING.findall(text)
    if not found:
        raise ValueError(f"no 'Rating: N' in the reply {text[:60]!r}")
    return float(found[-1])
