"""Yes/no questions about pictures: MME and POPE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.evals.base import Answered, Benchmark, Question, Summary
from owl2_jax.evals.files import DataFile, parse_rows, read_json_lines, read_text
from owl2_jax.evals.metrics import mme, pope

# These tasks keep pictures and questions in two folders; the others in one.
_SPLIT_FOLDERS = ("artwork", "celebrity", "landmark", "posters", "scene")
# The order of the released evaluation, which is that of the alphabet.
_MME_TASKS = sorted(mme.TASK_NAMES)
_MME_FOLDER = "mme/MME_Benchmark_release_version"
_MME_SOURCE = "github.com/BradyFU/Awesome-Multimodal-Large-Language-Models (Evaluation branch)"


class MME(Benchmark):
    """MME: 2 374 questions, two for each picture, in 14 tasks.

    Each task is a text file of its own with the lines "picture TAB question TAB answer".
    """

    title = "MME perception"
    prompt = PROMPTS["mme"]
    metric = "Perception"
    published = 1450.19
    baselines = (("chance", 750.0),)
    scale = 2000.0
    files = (
        DataFile(_MME_FOLDER, _MME_SOURCE),
        *(DataFile(f"{_MME_FOLDER}/eval_tool/Your_Results/{task}.txt", _MME_SOURCE) for task in _MME_TASKS),
    )

    def questions(self, root: Path) -> Iterator[Question]:
        folder = self.data_file(root)
        for file, task in zip(self.files[1:], _MME_TASKS, strict=True):
            path = file.require(root)
            pictures = folder / task / "images" if task in _SPLIT_FOLDERS else folder / task
            lines = read_text(path).splitlines()
            yield from parse_rows(path, enumerate(lines), partial(self._parse, task, pictures))

    def _parse(self, task: str, pictures: Path, numbered: tuple[int, str]) -> Question:
        number, line = numbered
        fields = line.split("\t")
        if len(fields) != 3:
            raise ValueError(f"expected picture, question and answer between tabs, found {line[:60]!r}")
        image, question, answer = fields
        if answer.strip().lower() not in ("yes", "no"):
            raise ValueError(f"the answer must be Yes or No, found {answer!r}")
        return Question(
            f"{task}/{number}",
            self.prompt.text(question=question),
            self.prompt.hash,
            answer.strip(),
            (pictures / image,),
            info={"task": task, "image": image},
        )

    def score(self, question: Question, prediction: str) -> float:
        return float(mme.parse_yes_no(prediction) == question.answer.lower())

    def summarise(self, answered: Sequence[Answered]) -> Summary:
        scores = [answer.score for answer in answered]
        rows = [
            mme.Answer(
                answer.question.info["task"],
                answer.question.info["image"],
                answer.prediction,
                answer.question.answer,
            )
            for answer in answered
        ]
        return Summary(mme.mme_scores(rows)[0], scores)

    def features(self, answered: Sequence[Answered], scores: Sequence[float]) -> np.ndarray:
        """Per picture: its points in its task's column, and a 1 in the task's counting column."""
        pictures: dict[tuple[str, str], list[float]] = {}
        for answer, score in zip(answered, scores, strict=True):
            info = answer.question.info
            pictures.setdefault((info["task"], info["image"]), []).append(score)
        tasks = mme.TASKS["Perception"]
        rows = np.zeros((len(pictures), 2 * len(tasks)))
        for row, ((task, _), right) in zip(rows, pictures.items(), strict=True):
            if task in tasks:
                row[tasks.index(task)] = sum(right) / len(right) + all(right)
                row[len(tasks) + tasks.index(task)] = 1.0
        return rows

    def headline(self, means: np.ndarray) -> float:
        points, share = np.split(means, 2)
        return 100.0 * float(np.sum(points / np.maximum(share, 1e-12)))


class POPE(Benchmark):
    """POPE on COCO: 3 000 questions about objects, in one of three ways to draw the absent ones."""

    prompt = PROMPTS["vqa"]
    metric = "f1"
    baselines = (("always yes", 200 / 3),)

    def __init__(self, negatives: str):
        """`negatives`: "random", "popular" or "adversarial"."""
        self.title = f"POPE {negatives}"
        self.files = (
            DataFile(f"pope/coco_pope_{negatives}.json", "github.com/AoiDragon/POPE (output/coco)"),
            DataFile("coco/val2014", "cocodataset.org/#download (2014 val images)"),
        )
        self.published = 86.2
        self.published_note = "outside report, mean of the three"

    def questions(self, root: Path) -> Iterator[Question]:
        path, pictures = self.data_file(root), self.data_file(root, 1)

        def parse(row: dict) -> Question:
            if row["label"] not in ("yes", "no"):
                raise ValueError(f"the label must be yes or no, found {row['label']!r}")
            text = self.prompt.text(question=row["text"])
            picture = pictures / row["image"]
            return Question(str(row["question_id"]), text, self.prompt.hash, row["label"], (picture,))

        yield from parse_rows(path, read_json_lines(path), parse)

    def score(self, question: Question, prediction: str) -> float:
        return float(pope.parse_pope(prediction) == question.answer)

    def summarise(self, answered: Sequence[Answered]) -> Summary:
        if not answered:
            raise Owl2Error(f"{self.title}: no answers to sum up")
        pairs = [(answer.question.answer, pope.parse_pope(answer.prediction)) for answer in answered]
        return Summary(pope.pope_scores(pairs), [answer.score for answer in answered])

    def features(self, answered: Sequence[Answered], scores: Sequence[float]) -> np.ndarray:
        """Whether each answer is a true positive, a false positive, a false negative."""
        pairs = [(answer.question.answer, pope.parse_pope(answer.prediction)) for answer in answered]
        kinds = [("yes", "yes"), ("no", "yes"), ("yes", "no")]
        return np.array([[pair == kind for kind in kinds] for pair in pairs], np.float64)

    def headline(self, means: np.ndarray) -> float:
        return 100.0 * pope.f1(*map(float, means))
