"""Yes/no questions about images: MME and POPE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.overriding import override
from owl2_jax.core.text_files import lines, read_text
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.evals.base import Answered, Benchmark, Question, Summary, percent
from owl2_jax.evals.broken import At, Broken
from owl2_jax.evals.files import DataFile, read_json_lines
from owl2_jax.evals.metrics import mme, pope
from owl2_jax.evals.metrics.yes_no_text import read_yes_no
from owl2_jax.evals.rows import identifier, left_out, parse_rows, text

# These tasks keep images and questions in two folders; the others in one.
_SPLIT_FOLDERS = ("artwork", "celebrity", "landmark", "posters", "scene")
# The order of the released evaluation, which is that of the alphabet.
_MME_TASKS = sorted(mme.TASK_NAMES)
_MME_FOLDER = "mme/MME_Benchmark_release_version"
_MME_SOURCE = "github.com/BradyFU/Awesome-Multimodal-Large-Language-Models (Evaluation branch)"


class MME(Benchmark):
    """MME: 2 374 questions, two for each image, in 14 tasks.

    Each task is a text file of its own with the lines "image TAB question TAB answer".
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

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        folder = self.data_file(root)
        for file, task in zip(self.files[1:], _MME_TASKS, strict=True):
            path = file.require(root)
            images = folder / task / "images" if task in _SPLIT_FOLDERS else folder / task
            numbered = enumerate(lines(read_text(path)))
            rows = [At(f"line {number + 1}", (number, line)) for number, line in numbered if line.strip()]
            yield from _in_pairs(list(parse_rows(path, rows, partial(self._parse, task, images))))

    def _parse(self, task: str, images: Path, numbered: tuple[int, str]) -> Question:
        number, line = numbered
        fields = line.split("\t")
        if len(fields) != 3:
            raise ValueError(f"expected image, question and answer between tabs, found {line[:60]!r}")
        image, question, answer = fields
        if answer.strip().lower() not in ("yes", "no"):
            raise ValueError(f"the answer must be Yes or No, found {answer!r}")
        return Question(
            f"{task}/{number}",
            self.prompt.text(question=question),
            self.prompt.hash,
            answer.strip(),
            (images / image,),
            info={"task": task, "image": image},
        )

    @override
    def score(self, question: Question, prediction: str) -> float:
        return float(mme.parse_yes_no(prediction) == question.answer.lower())

    @override
    def summarise(self, answered: Sequence[Answered]) -> Summary:
        """The scores of all tasks; without their totals where tasks have no image with both answers."""
        scores = [answer.score for answer in answered]
        by_task: dict[str, list[mme.Answer]] = {}
        for (task, image), pair in _images(answered).items():
            said = [mme.Answer(task, image, one.prediction, one.question.answer) for one in pair]
            by_task.setdefault(task, []).extend(said)
        missing = [task for task in mme.TASK_NAMES if task not in by_task]
        if not missing:
            totals = mme.mme_scores(row for rows in by_task.values() for row in rows)[0]
            return Summary(totals | _as_read(answered), scores)
        why = f"tasks without an image of which both questions were answered: {', '.join(missing)}"
        parts = {
            f"{part}-{task}": mme.task_metrics(by_task[task])["score"]
            for part, tasks in mme.TASKS.items()
            for task in tasks
            if task in by_task
        }
        return Summary(parts, scores, dict.fromkeys(mme.TASKS, why))

    @override
    def features(self, answered: Sequence[Answered], scores: Sequence[float]) -> np.ndarray:
        """Per image: its points in its task's column, and a 1 in the task's counting column."""
        images = _images(answered)
        tasks = mme.TASKS["Perception"]
        rows = np.zeros((len(images), 2 * len(tasks)))
        for row, ((task, _), pair) in zip(rows, images.items(), strict=True):
            right = [one.score for one in pair]
            if task in tasks:
                row[tasks.index(task)] = sum(right) / len(right) + all(right)
                row[len(tasks) + tasks.index(task)] = 1.0
        return rows

    @override
    def headline(self, means: np.ndarray) -> float:
        points, share = np.split(means, 2)
        return 100.0 * float(np.sum(points / np.maximum(share, 1e-12)))


def _in_pairs(rows: Sequence[Question | Broken]) -> Iterator[Question | Broken]:
    """The rows of a task, in which an image without exactly two usable questions is left out."""
    counts = Counter(row.info["image"] for row in rows if isinstance(row, Question))
    for row in rows:
        if isinstance(row, Question) and (count := counts[row.info["image"]]) != 2:
            yield left_out(
                row, f"is left out: image {row.info['image']} has {count} usable questions, expected 2"
            )
        else:
            yield row


def _images(answered: Sequence[Answered]) -> dict[tuple[str, str], list[Answered]]:
    """The answers by task and image; images of which only one question was asked are left out."""
    images: dict[tuple[str, str], list[Answered]] = {}
    for answer in answered:
        info = answer.question.info
        images.setdefault((info["task"], info["image"]), []).append(answer)
    return {key: pair for key, pair in images.items() if len(pair) == 2}


def _as_read(answered: Sequence[Answered]) -> dict[str, float]:
    """The accuracy by our own reading of the answers, beside the authors'."""
    right = [read_yes_no(answer.prediction) == answer.question.answer.lower() for answer in answered]
    return {"accuracy_as_read": percent(right)}


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

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, images = self.data_file(root), self.data_file(root, 1)

        def parse(row: dict) -> Question:
            label = row["label"].strip().lower() if isinstance(row["label"], str) else row["label"]
            if label not in ("yes", "no"):
                raise ValueError(f"the label must be yes or no, found {row['label']!r}")
            prompt = self.prompt.text(question=text(row["text"], "the text"))
            name, image = identifier(row["question_id"], "question_id"), images / row["image"]
            return Question(name, prompt, self.prompt.hash, label, (image,))

        yield from parse_rows(path, read_json_lines(path), parse)

    @override
    def score(self, question: Question, prediction: str) -> float:
        return float(pope.parse_pope(prediction) == question.answer)

    @override
    def summarise(self, answered: Sequence[Answered]) -> Summary:
        if not answered:
            raise Owl2Error(f"{self.title}: no answers to sum up")
        pairs = [(answer.question.answer, pope.parse_pope(answer.prediction)) for answer in answered]
        return Summary(pope.pope_scores(pairs) | _as_read(answered), [answer.score for answer in answered])

    @override
    def features(self, answered: Sequence[Answered], scores: Sequence[float]) -> np.ndarray:
        """Whether each answer is a true positive, a false positive, a false negative."""
        pairs = [(answer.question.answer, pope.parse_pope(answer.prediction)) for answer in answered]
        kinds = [("yes", "yes"), ("no", "yes"), ("yes", "no")]
        return np.array([[pair == kind for kind in kinds] for pair in pairs], np.float64)

    @override
    def headline(self, means: np.ndarray) -> float:
        return 100.0 * pope.f1(*map(float, means))
