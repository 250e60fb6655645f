"""VQA accuracy against the original's results."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from owl2_jax.evals.metrics import vqa
from owl2_jax.evals.metrics.answers import normalise_prediction

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "metrics" / "vqa.json").read_text())


def test_every_golden_question_scores_as_the_original():
    for row in GOLDEN["questions"]:
        accuracy = vqa.vqa_accuracy(row["prediction"], row["answers"])
        assert round(100 * accuracy, 2) == row["accuracy"], row["question_id"]
        assert normalise_prediction(row["prediction"]) == row["prediction_normalised"]
        texts = [answer["answer"] for answer in row["answers"]]
        assert vqa.normalise_answers(texts) == row["ground_truths_normalised"]


def test_golden_totals_match_to_two_decimals():
    rows = [
        (vqa.vqa_accuracy(row["prediction"], row["answers"]), row["question_type"], row["answer_type"])
        for row in GOLDEN["questions"]
    ]
    summary = vqa.summarise(rows)
    assert summary == GOLDEN["summary"]["accuracy"]
    assert str(summary) == GOLDEN["summary"]["printed"]


@pytest.mark.parametrize("row", GOLDEN["edge_questions"], ids=lambda row: row["note"][:40])
def test_golden_edge_questions(row):
    assert round(100 * vqa.vqa_accuracy(row["prediction"], row["answers"]), 2) == row["accuracy"]


def test_plain_strings_are_ten_different_people():
    # Three of ten agree: those three see 2 others (2/3), the seven see 3 (1), so (3 * 2/3 + 7) / 10.
    answers = ["red"] * 3 + ["blue"] * 7
    assert vqa.vqa_accuracy("Red.", answers) == pytest.approx(0.9)
    assert vqa.vqa_accuracy("red", ["red"] * 10) == 1.0
    assert vqa.vqa_accuracy("green", answers) == 0.0


def test_ten_equal_capitalised_answers_can_never_be_matched():
    assert vqa.vqa_accuracy("Yes", ["Yes"] * 10) == 0.0


def test_a_hundred_thousand_predictions_are_scored_in_under_twenty_seconds():
    questions = GOLDEN["questions"]
    start = time.process_time()
    for index in range(100_000):
        row = questions[index % len(questions)]
        # A changing word keeps the cache of normalised strings from answering for us.
        vqa.vqa_accuracy(f"{row['prediction']} {index}", row["answers"])
    assert time.process_time() - start < 20
