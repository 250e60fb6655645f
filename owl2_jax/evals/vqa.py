"""Short-answer questions about images: VQAv2, OKVQA, A-OKVQA, GQA, VizWiz, TextVQA, OCR-VQA.

All use the prompt `vqa` and ten new tokens. Data sets with ten human answers a
question are scored by leave-one-out VQA accuracy, the others by exact match.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from owl2_jax.core.file_writing import write_text
from owl2_jax.core.json_files import Json
from owl2_jax.core.overriding import override
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.evals.base import Answered, Benchmark, Image, Question, Summary, percent, percent_by
from owl2_jax.evals.broken import At, Broken
from owl2_jax.evals.files import DataFile, read_object, read_rows
from owl2_jax.evals.metrics.answers import exact_match, normalise_for_server
from owl2_jax.evals.metrics.vqa import summarise, vqa_accuracy
from owl2_jax.evals.rows import identifier, parse_rows, text, texts, whole, whole_number

COCO = "cocodataset.org/#download"
VQA = "visualqa.org/download"
OKVQA_SITE = "okvqa.allenai.org/download"


class ShortAnswer(Benchmark):
    """A question about one image, answered in a word or a phrase."""

    prompt = PROMPTS["vqa"]

    def question(self, name: str, question: str, image: Image, answer: Json, **info: Json) -> Question:
        """A question of the file's row."""
        prompt = self.prompt.text(question=text(question, "the question"))
        return Question(name, prompt, self.prompt.hash, answer, (image,), info=info)

    @override
    def score(self, question: Question, prediction: str) -> float | None:
        return None if question.answer is None else exact_match(prediction, question.answer)


class HumanAnswers(ShortAnswer):
    """Questions with several human answers, scored by VQA accuracy."""

    metric = "vqa_accuracy"

    @override
    def score(self, question: Question, prediction: str) -> float | None:
        return None if question.answer is None else vqa_accuracy(prediction, question.answer)

    @override
    def summarise(self, answered: Sequence[Answered]) -> Summary:
        """Overall and by answer type, rounded to 2 decimals as the original prints them."""
        scores = [answer.score for answer in answered]
        if not scores or None in scores:
            return Summary({}, scores)
        kinds = [answer.question.info.get("answer_type", "") for answer in answered]
        totals = summarise((score, "", kind) for score, kind in zip(scores, kinds, strict=True))
        by_kind = {kind: value for kind, value in totals["perAnswerType"].items() if kind}
        return Summary({self.metric: totals["overall"], **by_kind}, scores)


class QuestionsAndAnnotations(HumanAnswers):
    """VQA's two files: questions, and the answers to them by question id."""

    image_name: str

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, images = self.data_file(root, 0), self.files[-1].require(root)
        annotations = self._annotations(root)
        answers = None if annotations is None else dict(whole(annotations))
        yield from (row for row in annotations or () if isinstance(row, Broken))

        def parse(row: dict) -> Question:
            name = whole_number(row["question_id"], "question_id")
            if answers is not None and name not in answers:
                raise ValueError(f"question {name} has no annotation in {self.files[1].path}")
            known = {} if answers is None else _annotation(name, answers[name], self.files[1].path)
            return self.question(
                str(name),
                row["question"],
                images / self.image_name.format(row["image_id"]),
                known.get("answers"),
                answer_type=known.get("answer_type", ""),
            )

        yield from parse_rows(path, read_rows(path, "questions"), parse)

    def _annotations(self, root: Path) -> list[tuple[int, dict] | Broken] | None:
        """Annotations by question; what is wrong inside one is told with its question."""
        if len(self.files) < 3:
            return None
        path = self.data_file(root, 1)
        return list(parse_rows(path, read_rows(path, "annotations"), _by_question))


def _by_question(row: dict) -> tuple[int, dict]:
    return whole_number(row["question_id"], "question_id"), row


def _annotation(name: int, row: dict, file: str) -> dict[str, Any]:
    """Answers and their type from the row of a question in the annotations."""
    try:
        answers = [
            {"answer": text(a["answer"], "an answer"), "answer_id": a["answer_id"]} for a in row["answers"]
        ]
        if not answers:
            raise ValueError("no answers")
        return {"answers": answers, "answer_type": text(row["answer_type"], "answer_type")}
    except (KeyError, TypeError, ValueError) as error:
        why = f"no {error.args[0]!r}" if isinstance(error, KeyError) else error
        raise ValueError(f"its annotation in {file} is malformed: {why}") from error


class VQAv2(QuestionsAndAnnotations):
    """VQA v2, validation: 214 354 questions."""

    title = "VQAv2 val"
    image_name = "COCO_val2014_{:012d}.jpg"
    files = (
        DataFile("vqav2/v2_OpenEnded_mscoco_val2014_questions.json", VQA),
        DataFile("vqav2/v2_mscoco_val2014_annotations.json", VQA),
        DataFile("coco/val2014", f"{COCO} (2014 val images)"),
    )


class VQAv2TestDev(QuestionsAndAnnotations):
    """VQA v2, test-dev: answers are secret; writes the file that the server scores."""

    title = "VQAv2 test-dev"
    scored_here = False
    published = 79.4
    image_name = "COCO_test2015_{:012d}.jpg"
    files = (
        DataFile("vqav2/v2_OpenEnded_mscoco_test-dev2015_questions.json", VQA),
        DataFile("coco/test2015", f"{COCO} (2015 test images)"),
    )

    @override
    def export(self, answered: Sequence[Answered], folder: Path) -> list[Path]:
        rows = [
            {
                "question_id": int(answer.question.id),
                "answer": normalise_for_server(answer.prediction),
            }
            for answer in answered
        ]
        path = folder / "v2_OpenEnded_mscoco_test-dev2015_owl2_results.json"
        write_text(path, json.dumps(rows, ensure_ascii=False))
        return [path]


class OKVQA(QuestionsAndAnnotations):
    """OK-VQA, validation (its test set): 5 046 questions that need outside knowledge."""

    title = "OKVQA val"
    published = 57.7
    image_name = "COCO_val2014_{:012d}.jpg"
    files = (
        DataFile("okvqa/OpenEnded_mscoco_val2014_questions.json", OKVQA_SITE),
        DataFile("okvqa/mscoco_val2014_annotations.json", OKVQA_SITE),
        DataFile("coco/val2014", f"{COCO} (2014 val images)"),
    )


class AOKVQA(ShortAnswer):
    """A-OKVQA validation, direct answers: min(1, equal answers / 3) over ten answers."""

    title = "A-OKVQA val, direct answer"
    metric = "direct_answer"
    files = (
        DataFile("aokvqa/aokvqa_v1p0_val.json", "allenai.org/project/a-okvqa"),
        DataFile("coco/val2017", f"{COCO} (2017 val images)"),
    )

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, images = self.data_file(root), self.data_file(root, 1)

        def parse(row: dict) -> Question:
            image = images / f"{row['image_id']:012d}.jpg"
            answers = texts(row["direct_answers"], "direct_answers")
            return self.question(
                identifier(row["question_id"], "question_id"), row["question"], image, answers
            )

        yield from parse_rows(path, read_rows(path), parse)

    @override
    def score(self, question: Question, prediction: str) -> float | None:
        """The authors compare exact strings; the letter case and final stop of a model are not its answer."""
        return min(1.0, sum(exact_match(prediction, answer) for answer in question.answer) / 3)


class GQA(ShortAnswer):
    """GQA test-dev balanced: 12 578 questions, one answer each."""

    title = "GQA test-dev balanced"
    published = 56.1
    files = (
        DataFile("gqa/testdev_balanced_questions.json", "cs.stanford.edu/people/dorarad/gqa/download"),
        DataFile("gqa/images", "cs.stanford.edu/people/dorarad/gqa/download"),
    )

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, images = self.data_file(root), self.data_file(root, 1)

        def parse(item: tuple[str, dict]) -> Question:
            name, row = item
            image = images / f"{row['imageId']}.jpg"
            kind = text(row["types"]["structural"], "the structural type")
            return self.question(name, row["question"], image, text(row["answer"], "the answer"), kind=kind)

        yield from parse_rows(path, read_object(path).items(), parse)

    @override
    def summarise(self, answered: Sequence[Answered]) -> Summary:
        scores = [answer.score for answer in answered]
        kinds = [answer.question.info["kind"] for answer in answered]
        return Summary({self.metric: percent(scores), **percent_by(kinds, scores)}, scores)


class VizWiz(HumanAnswers):
    """VizWiz validation: 4 319 images taken, and questions asked, by blind people.

    Its answers carry no ids, so equal ones would drop out of the original's
    leave-one-out together; here each is a person of its own.
    """

    title = "VizWiz val"
    published = 54.5
    files = (
        DataFile("vizwiz/val.json", "vizwiz.org/tasks-and-datasets/vqa (Annotations.zip)"),
        DataFile("vizwiz/val", "vizwiz.org/tasks-and-datasets/vqa (val.zip)"),
    )

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, images = self.data_file(root), self.data_file(root, 1)

        def parse(row: dict) -> Question:
            return self.question(
                text(row["image"], "the image"),
                row["question"],
                images / row["image"],
                texts([answer["answer"] for answer in row["answers"]], "the list of answers"),
                answer_type=text(row["answer_type"], "answer_type"),
            )

        yield from parse_rows(path, read_rows(path), parse)


class TextVQA(HumanAnswers):
    """TextVQA validation: 5 000 questions about text in images."""

    title = "TextVQA val"
    published = 54.3
    published_note = "58.2 with OCR tokens in the prompt"
    files = (
        DataFile("textvqa/TextVQA_0.5.1_val.json", "textvqa.org/dataset"),
        DataFile("textvqa/train_images", "textvqa.org/dataset (train_val_images.zip)"),
    )

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, images = self.data_file(root), self.data_file(root, 1)

        def parse(row: dict) -> Question:
            image = images / f"{row['image_id']}.jpg"
            name = identifier(row["question_id"], "question_id")
            return self.question(name, row["question"], image, texts(row["answers"], "the list of answers"))

        yield from parse_rows(path, read_rows(path, "data"), parse)


class OCRVQA(ShortAnswer):
    """OCR-VQA test: questions about 20 000 book covers; split 3 of the one file."""

    title = "OCR-VQA test"
    files = (
        DataFile("ocrvqa/dataset.json", "ocr-vqa.github.io"),
        DataFile("ocrvqa/images", "ocr-vqa.github.io (loadDataset.py fetches them)"),
    )

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, images = self.data_file(root), self.data_file(root, 1)

        def parse(item: tuple[str, dict, int, Json, Json]) -> Question:
            name, row, index, question, answer = item
            image = images / (name + PurePosixPath(row["imageURL"]).suffix)
            return self.question(f"{name}-{index}", question, image, text(answer, "the answer"))

        for book in parse_rows(path, read_object(path).items(), _book):
            yield from [book] if isinstance(book, Broken) else parse_rows(path, book, parse)


def _book(item: tuple[str, dict]) -> list[At] | None:
    """Each question of a book, with its place; None for a book of another split."""
    name, row = item
    if row["split"] != 3:
        return None
    pairs = enumerate(zip(row["questions"], row["answers"], strict=True))
    return [At(f"book {name}, question {index}", (name, row, index, *pair)) for index, pair in pairs]
