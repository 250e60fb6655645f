"""MME and POPE, from their authors' file formats to the final score."""

from __future__ import annotations

import numpy as np
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.metrics.mme import TASK_NAMES
from owl2_jax.evals.yes_no import MME, POPE

RELEASE = "mme/MME_Benchmark_release_version"


def mme_files(folder, **lines):
    """Every task with one image, or with the lines given for it."""
    for task in TASK_NAMES:
        text = lines.get(task) or (
            f"{task}.jpg\tIs it so? Please answer yes or no.\tYes\n"
            f"{task}.jpg\tIs it not so? Please answer yes or no.\tNo\n"
        )
        folder.text(f"{RELEASE}/eval_tool/Your_Results/{task}.txt", text)


def test_mme_sums_ten_perception_and_four_cognition_tasks(folder, answer):
    mme_files(folder)
    names = [f"{task}/{line}" for task in sorted(TASK_NAMES) for line in (0, 1)]
    predictions = dict.fromkeys(names, "No")
    # Always "No" is right on one question of each image: 50 + 0 in every task ...
    predictions |= {"count/0": "Yes", "count/1": "no, it is not"}  # ... but count: 100 + 100,
    predictions |= {"scene/0": "maybe", "scene/1": "unsure"}  # and scene: 0 + 0 (neither yes nor no).
    answered, summary = answer(MME(), predictions)
    assert summary.metrics["Perception"] == 8 * 50 + 200
    assert summary.metrics["Cognition"] == 4 * 50
    assert summary.metrics["Perception-count"] == 200
    assert summary.metrics["accuracy_as_read"] == pytest.approx(100 * 14 / 28)
    assert answered[0].question.prompt == (
        "USER: <|image|>Is it so? \nAnswer the question using a single word or phrase. ASSISTANT: "
    )
    features = MME().features(answered, summary.scores)
    assert features.shape == (14, 20)
    assert MME().headline(features.mean(0)) == pytest.approx(summary.metrics["Perception"])


def test_mme_images_lie_where_the_release_puts_them(folder):
    mme_files(folder)
    images = {q.info["task"]: q.images[0].relative_to(folder.root) for q in MME().questions(folder.root)}
    assert str(images["scene"]) == f"{RELEASE}/scene/images/scene.jpg"
    assert str(images["OCR"]) == f"{RELEASE}/OCR/OCR.jpg"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg\tIs it so?\n", r"OCR.txt, line 1 is malformed: expected image, question and answer"),
        ("a.jpg\tIs it so?\tPerhaps\n", "must be Yes or No, found 'Perhaps'"),
    ],
)
def test_malformed_mme_lines_are_named(folder, line, message, assert_broken):
    mme_files(folder, OCR=line)
    assert_broken(MME(), message)


def test_a_missing_mme_task_is_named(folder):
    mme_files(folder)
    (folder.root / RELEASE / "eval_tool/Your_Results/color.txt").unlink()
    with pytest.raises(Owl2Error, match=r"color\.txt is missing\. Get color\.txt from"):
        list(MME().questions(folder.root))


def pope_rows():
    labels = ["yes", "no", "yes", "no"]
    return [
        {"question_id": number, "image": "COCO_val2014_000000310196.jpg",
         "text": "Is there a snowboard in the image?", "label": label}
        for number, label in enumerate(labels, 1)
    ]  # fmt: skip


def test_pope_by_hand(folder, answer):
    folder.lines("pope/coco_pope_random.json", pope_rows())
    folder.image("coco/val2014/COCO_val2014_000000310196.jpg")
    answers = {"1": "Yes, there is.", "2": "Yes", "3": "No", "4": "There is not one."}
    answered, summary = answer(POPE("random"), answers)
    # One each of true and false positives and negatives.
    expected = {
        "accuracy": 50,
        "precision": 50,
        "recall": 50,
        "f1": 50,
        "yes_share": 50,
        "accuracy_as_read": 50,
    }
    assert summary.metrics == pytest.approx(expected)
    features = POPE("random").features(answered, summary.scores)
    assert POPE("random").headline(np.asarray(features).mean(0)) == pytest.approx(50)


def test_malformed_pope_files_are_named(folder, assert_broken):
    folder.image("coco/val2014/a.jpg")
    folder.lines("pope/coco_pope_popular.json", [{**pope_rows()[0], "label": "maybe"}])
    assert_broken(POPE("popular"), "the label must be yes or no, found 'maybe'")
    folder.text("pope/coco_pope_popular.json", '{"question_id": 1}\n{"quest')
    assert_broken(POPE("popular"), "line 2 is not valid JSON")
