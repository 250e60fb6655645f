"""MME scores (Fu et al. 2023): accuracy and accuracy+ per task, summed.

Every image has one question whose answer is yes and one whose answer is no.
A task scores 100 * accuracy + 100 * accuracy+, where accuracy+ counts images
with both answers right; perception sums ten tasks (at most 2 000), cognition
four (at most 800).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from owl2_jax.core.errors import Owl2Error, unknown_name

TASKS = {
    "Perception": (
        "existence",
        "count",
        "position",
        "color",
        "posters",
        "celebrity",
        "scene",
        "landmark",
        "artwork",
        "OCR",
    ),
    "Cognition": (
        "commonsense_reasoning",
        "numerical_calculation",
        "text_translation",
        "code_reasoning",
    ),
}
TASK_NAMES = tuple(task for tasks in TASKS.values() for task in tasks)


class Answer(NamedTuple):
    """One answered question."""

    task: str
    image: str
    prediction: str
    truth: str


def parse_yes_no(prediction: str) -> str:
    """ "yes", "no" or "other", from the first four characters, as its authors do; see `yes_no_text`."""
    text = prediction.lower()
    if text in ("yes", "no"):
        return text
    return next((word for word in ("yes", "no") if word in text[:4]), "other")


def task_metrics(answers: Iterable[Answer]) -> dict[str, float]:
    """Scores of one task.

    Precision and recall leave answers out that are neither yes nor no; the
    accuracies count them as wrong.
    """
    images = _by_image(answers)
    pairs = [pair for image in images.values() for pair in image]
    counts = {
        name: pairs.count(pair)
        for name, pair in {
            "TP": ("yes", "yes"),
            "FN": ("yes", "no"),
            "TN": ("no", "no"),
            "FP": ("no", "yes"),
        }.items()
    }
    accuracy = (counts["TP"] + counts["TN"]) / len(pairs)
    both_right = sum(all(truth == said for truth, said in image) for image in images.values())
    accuracy_plus = both_right / len(images)
    return {
        **counts,
        "precision": _ratio(counts["TP"], counts["TP"] + counts["FP"]),
        "recall": _ratio(counts["TP"], counts["TP"] + counts["FN"]),
        "other_num": sum(said == "other" for _, said in pairs),
        "acc": accuracy,
        "acc_plus": accuracy_plus,
        "score": accuracy * 100 + accuracy_plus * 100,
        "images": len(images),
    }


def mme_scores(answers: Iterable[Answer]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Returns (totals and task scores as "Perception-count", metrics of every task).

    Raises:
      Owl2Error: A task of the fourteen has no answers, or an image has not two questions.
    """
    by_task: dict[str, list[Answer]] = {}
    for answer in answers:
        by_task.setdefault(answer.task, []).append(answer)
    for task in by_task:
        if task not in TASK_NAMES:
            raise unknown_name("MME task", task, TASK_NAMES)
    missing = [task for task in TASK_NAMES if task not in by_task]
    if missing:
        raise Owl2Error(f"MME needs answers for all 14 tasks; there are none for {', '.join(missing)}")
    metrics = {task: task_metrics(by_task[task]) for task in TASK_NAMES}
    scores = {f"{part}-{task}": metrics[task]["score"] for part, tasks in TASKS.items() for task in tasks}
    totals = {part: sum(scores[f"{part}-{task}"] for task in tasks) for part, tasks in TASKS.items()}
    return totals | scores, metrics


def _by_image(answers: Iterable[Answer]) -> dict[str, list[tuple[str, str]]]:
    """Pairs of (truth, parsed prediction) by image."""
    images: dict[str, list[tuple[str, str]]] = {}
    for answer in answers:
        truth = answer.truth.lower()
        if truth not in ("yes", "no"):
            raise Owl2Error(
                f"MME task {answer.task}, image {answer.image}: the true answer must be Yes or No, "
                f"found {answer.truth!r}"
            )
        images.setdefault(answer.image, []).append((truth, parse_yes_no(answer.prediction)))
        task = answer.task
    for image, pairs in images.items():
        if len(pairs) != 2:
            raise Owl2Error(f"MME task {task}, image {image}: found {len(pairs)} questions, expected 2")
    return images


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
