"""Multiple choice about images: ScienceQA, A-OKVQA, SEED-Bench, Q-Bench; MMBench is in `circular.py`.

The model generates; the letter or the text of an option is then read out of its
answer. In the result file a prediction is what the model said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from owl2_jax.core.json_files import Json
from owl2_jax.core.overriding import override
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.evals.base import Answered, Benchmark, Image, Question, Summary, percent_by
from owl2_jax.evals.broken import Broken
from owl2_jax.evals.files import DataFile, read_object, read_rows
from owl2_jax.evals.metrics.choice import LETTERS, letter_index, option_lines, parse_choice
from owl2_jax.evals.rows import identifier, parse_rows, text, texts, whole_number


class Choice(Benchmark):
    """A question with lettered options; `answer` is the index of the right one."""

    prompt = PROMPTS["choice"]

    def question(
        self,
        name: str,
        question: str,
        options: Sequence[str],
        image: Image,
        answer: int | None,
        hint: str = "",
        letters: str = LETTERS,
        **info: Json,
    ) -> Question:
        """A question whose options bear `letters`, which may leave some out."""
        options = texts(options, "the list of options", least=2)
        letters = letters[: len(options)]
        if len(letters) < len(options):
            raise ValueError(f"it has {len(options)} options; expected at most {len(LETTERS)}")
        if answer is not None and not 0 <= whole_number(answer, "the answer") < len(options):
            raise ValueError(f"the answer is option {answer} of {len(options)}")
        fields = {"question": text(question, "the question"), "options": option_lines(options, letters)}
        if "hint" in self.prompt.fields:
            fields["hint"] = text(hint or "", "the hint") or "N/A"
        info = {"choices": options, "letters": letters, **info}
        return Question(name, self.prompt.text(**fields), self.prompt.hash, answer, (image,), info=info)

    @override
    def score(self, question: Question, prediction: str) -> float | None:
        if question.answer is None:
            return None
        info = question.info
        return float(parse_choice(prediction, info["choices"], info["letters"]) == question.answer)

    @override
    def summarise(self, answered: Sequence[Answered]) -> Summary:
        """Accuracy, whole and by `info["category"]` where questions have one."""
        summary = super().summarise(answered)
        kinds = [answer.question.info.get("category") for answer in answered]
        if summary.metrics and None not in kinds:
            summary.metrics.update(percent_by(kinds, summary.scores))
        return summary


class ScienceQA(Choice):
    """ScienceQA test, the 2 017 questions with an image; the hint stands before the question."""

    title = "ScienceQA-IMG test"
    prompt = PROMPTS["choice_hint"]
    published = 68.7
    files = (
        DataFile("scienceqa/problems.json", "scienceqa.github.io"),
        DataFile("scienceqa/pid_splits.json", "scienceqa.github.io"),
        DataFile("scienceqa/test", "scienceqa.github.io (test images)"),
    )

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, images = self.data_file(root), self.data_file(root, 2)
        problems = read_object(path)

        def parse(name: str) -> Question | None:
            row = problems[name]
            if not row["image"]:
                return None
            return self.question(
                name,
                row["question"],
                row["choices"],
                images / name / row["image"],
                row["answer"],
                hint=row["hint"],
                category=text(row["subject"], "the subject"),
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

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, images = self.data_file(root), self.data_file(root, 1)

        def parse(row: dict) -> Question:
            image = images / f"{row['image_id']:012d}.jpg"
            name = identifier(row["question_id"], "question_id")
            return self.question(name, row["question"], row["choices"], image, row["correct_choice_idx"])

        yield from parse_rows(path, read_rows(path), parse)


class SeedBench(Choice):
    """SEED-Bench, the nine tasks on still images (14 233 questions)."""

    title = "SEED-Bench image"
    baselines = (("chance", 25.0),)
    published = 57.8
    files = (
        DataFile("seed_bench/SEED-Bench.json", "github.com/AILab-CVC/SEED-Bench"),
        DataFile("seed_bench/SEED-Bench-image", "github.com/AILab-CVC/SEED-Bench"),
    )

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, images = self.data_file(root), self.data_file(root, 1)
        names = {number: name for name, number in read_object(path, "question_type").items()}

        def parse(row: dict) -> Question | None:
            if row["data_type"] != "image":
                return None
            if row["question_type_id"] not in names:
                raise ValueError(f"question_type_id {row['question_type_id']!r} is not under question_type")
            return self.question(
                identifier(row["question_id"], "question_id"),
                row["question"],
                [row[f"choice_{letter}"] for letter in "abcd"],
                images / row["data_id"],
                letter_index(row["answer"], LETTERS[:4]),
                category=names[row["question_type_id"]],
            )

        yield from parse_rows(path, read_rows(path, "questions"), parse)


class QBench(Choice):
    """Q-Bench, low-level perception (LLVisionQA dev): 1 495 questions about image quality."""

    title = "Q-Bench dev"
    published = 62.9
    files = (
        DataFile("qbench/llvisionqa_dev.json", "github.com/Q-Future/Q-Bench"),
        DataFile("qbench/images", "github.com/Q-Future/Q-Bench"),
    )

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, images = self.data_file(root), self.data_file(root, 1)

        def parse(item: tuple[int, dict]) -> Question:
            index, row = item
            image, options = images / row["img_path"], texts(row["candidates"], "candidates")
            if row["correct_ans"] not in options:
                raise ValueError(f"the answer {row['correct_ans']!r} is none of the candidates {options}")
            return self.question(
                str(index), row["question"], options, image, options.index(row["correct_ans"])
            )

        yield from parse_rows(path, read_rows(path), parse, numbered=True)
