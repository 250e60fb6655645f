"""POPE scores by hand."""

from __future__ import annotations

import pytest

from owl2_jax.evals.metrics.pope import parse_pope, pope_scores


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("Yes", "yes"),
        ("yes, there is", "yes"),
        ("No", "no"),
        ("No, there is none", "no"),
        ("There is not a dog. Yes", "no"),
        ("Yes. No", "yes"),
        ("nothing", "yes"),
        ("", "yes"),
    ],
)
def test_parsing_follows_the_authors(text, parsed):
    assert parse_pope(text) == parsed


def test_scores_by_hand():
    # TP 2, FN 1, FP 1, TN 1: accuracy 3/5, precision 2/3, recall 2/3, F1 2/3, yes 3/5.
    pairs = [("yes", "yes"), ("yes", "yes"), ("yes", "no"), ("no", "yes"), ("no", "no")]
    assert pope_scores(pairs) == pytest.approx(
        {"accuracy": 60, "precision": 200 / 3, "recall": 200 / 3, "f1": 200 / 3, "yes_share": 60}
    )


def test_a_model_that_never_says_yes_has_no_f1():
    scores = pope_scores([("yes", "no"), ("no", "no")])
    assert (scores["f1"], scores["precision"], scores["accuracy"]) == (0.0, 0.0, 50.0)
