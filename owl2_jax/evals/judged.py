"""Free answers that a stronger model judges: MM-Vet and MMHal-Bench.

A run writes the file that the authors' judge script reads. The judge's output
is read back by `owl2 evaluate --judgements NAME=FILE`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_writing import write_text
from owl2_jax.core.json_files import Json
from owl2_jax.core.overriding import override
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.evals.base import Answered, Decoding, Judged, Question, Summary, percent, percent_by
from owl2_jax.evals.broken import At, Broken
from owl2_jax.evals.files import DataFile, read_object, read_rows
from owl2_jax.evals.rows import parse_rows, text, texts, usable

_RATING = re.compile(r"rating:\s*\**\s*([0-6])\b", re.IGNORECASE)
# A rating below 3 means that the answer holds a hallucination.
_HALLUCINATES_BELOW = 3


class FreeAnswer(Judged):
    """A question as it is, answered at length."""

    prompt = PROMPTS["question"]
    decoding = Decoding(max_new_tokens=512)
    scored_here = False

    def question(self, name: str, question: str, image: Path, answer: str, **info: Json) -> Question:
        """A question of the file's row."""
        prompt, answer = self.prompt.text(question=text(question, "the question")), text(answer, "the answer")
        return Question(name, prompt, self.prompt.hash, answer, (image,), info=info)

    @override
    def score(self, question: Question, prediction: str) -> None:
        return None

    @override
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

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, images = self.data_file(root), self.data_file(root, 1)

        def parse(item: tuple[str, dict]) -> Question:
            name, row = item
            image = images / row["imagename"]
            capability = texts(row["capability"], "capability")
            return self.question(name, row["question"], image, row["answer"], capability=capability)

        yield from parse_rows(path, read_object(path).items(), parse)

    @override
    def export(self, answered: Sequence[Answered], folder: Path) -> list[Path]:
        """The input of mm-vet_evaluator: an object of answers by question."""
        path = folder / "mm-vet_answers.json"
        answers = {answer.question.id: answer.prediction for answer in answered}
        write_text(path, json.dumps(answers, indent=2, ensure_ascii=False))
        return [path]

    @override
    def judged(self, answered: Sequence[Answered], judgements: Path) -> Summary:
        """Reads the evaluator's `*-grade-*runs.json`: {id: {"score": [one for each run]}}."""
        grades = read_object(judgements)
        rows = [At(f"question {answer.question.id}", answer) for answer in answered]
        read = list(parse_rows(judgements, rows, lambda answer: _mean_grade(grades, answer)))
        scores, broken = usable(judgements, read)
        kinds = [
            (kind, score)
            for answer, score in zip(answered, scores, strict=True)
            for kind in answer.question.info["capability"]
            if score is not None
        ]
        by_kind = percent_by([kind for kind, _ in kinds], [score for _, score in kinds])
        known = [score for score in scores if score is not None]
        return Summary({self.metric: percent(known), **by_kind}, scores, broken=broken)


def _mean_grade(grades: dict[str, dict], answer: Answered) -> float:
    if answer.question.id not in grades:
        raise ValueError("there is no judgement of it")
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

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, images = self.data_file(root), self.data_file(root, 1)

        def parse(item: tuple[int, dict]) -> Question:
            index, row = item
            image = images / PurePosixPath(row["image_src"]).name
            text(row["question_type"], "question_type")
            return self.question(str(index), row["question"], image, row["gt_answer"], row=row)

        yield from parse_rows(path, read_rows(path), parse, numbered=True)

    @override
    def export(self, answered: Sequence[Answered], folder: Path) -> list[Path]:
        """The authors' template with `model_answer` filled in."""
        rows = [{**answer.question.info["row"], "model_answer": answer.prediction} for answer in answered]
        path = folder / "mmhal-bench_responses.json"
        write_text(path, json.dumps(rows, indent=2, ensure_ascii=False))
        return [path]

    @override
    def judged(self, answered: Sequence[Answered], judgements: Path) -> Summary:
        """Reads the judge's replies: a list of texts, or of chat completions, in order."""
        replies = read_rows(judgements)
        if len(replies) != len(answered):
            raise Owl2Error(f"{judgements} holds {len(replies)} judgements; expected {len(answered)}")
        ratings, broken = usable(judgements, list(parse_rows(judgements, replies, _rating)))
        known = [
            (answer.question.info["row"]["question_type"], rating)
            for answer, rating in zip(answered, ratings, strict=True)
            if rating is not None
        ]
        kinds, values = [kind for kind, _ in known], [rating for _, rating in known]
        below = [float(rating < _HALLUCINATES_BELOW) for rating in values]
        by_kind = {kind: value / 100 for kind, value in percent_by(kinds, values).items()}
        metrics = {"rating": percent(values) / 100, "hallucination_rate": percent(below), **by_kind}
        return Summary(metrics, ratings, broken=broken)

    @override
    def headline(self, means) -> float:
        return float(means[0])


def _rating(reply: str | dict) -> float:
    said = text(reply if isinstance(reply, str) else reply["choices"][0]["message"]["content"], "the reply")
    found = _RATING.findall(said)
    if not found:
        raise ValueError(f"no 'Rating: N' in the reply {said[:60]!r}")
    return float(found[-1])
