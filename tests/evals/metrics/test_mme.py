"""MME parsing and scores against the original's results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.metrics.mme import TASK_NAMES, Answer, mme_scores, parse_yes_no, task_metrics

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "metrics" / "mme.json").read_text())


def answers_of(case):
    return [
        Answer(row["category"], row["image_name"], row["answer"], row["annotation"]) for row in case["rows"]
    ]


def test_golden_parsing():
    for case in GOLDEN["parse_cases"]:
        assert parse_yes_no(case["raw"]) == case["parsed"], case["raw"]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_golden_totals_and_tasks_are_equal_to_the_last_bit(case):
    totals, tasks = mme_scores(answers_of(case))
    assert totals == case["metrics"]
    for task, expected in case["per_category"].items():
        assert tasks[task] == {key: value for key, value in expected.items() if key != "type"}, task


def test_a_task_with_unreadable_answers_only_scores_nothing():
    expected = GOLDEN["behaviours"]["category with only 'other' answers"]
    found = task_metrics([Answer("scene", "a", "perhaps", "Yes"), Answer("scene", "a", "", "No")])
    assert found == {key: value for key, value in expected.items() if key != "type"}


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([Answer("scene", "a.jpg", "yes", "Yes")], "a.jpg: found 1 questions, expected 2"),
        ([Answer("scene", "a.jpg", "yes", "maybe")] * 2, "must be Yes or No, found 'maybe'"),
    ],
)
def test_bad_rows_are_named(answers, message):
    with pytest.raises(Owl2Error, match=message):
        task_metrics(answers)


def test_missing_and_unknown_tasks_are_named():
    pair = [Answer("scene", "a", "yes", "Yes"), Answer("scene", "a", "no", "No")]
    with pytest.raises(Owl2Error, match="there are none for existence, count"):
        mme_scores(pair)
    with pytest.raises(Owl2Error, match="scene"):
        mme_scores([answer._replace(task="scenes") for answer in pair])


def test_there_are_fourteen_tasks():
    assert len(TASK_NAMES) == 14
