"""Answer normalisation against the original's results, string for string."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from owl2_jax.evals.metrics import answers

GOLDEN = Path(__file__).parents[2] / "golden" / "metrics" / "vqa.json"
CASES = json.loads(GOLDEN.read_text())["normalisation"]


@pytest.mark.parametrize("kind", sorted({case["kind"] for case in CASES}))
def test_golden_strings_normalise_exactly(kind):
    for case in (case for case in CASES if case["kind"] == kind):
        raw = case["raw"]
        assert answers.normalise_prediction(raw) == case["prediction"], raw
        assert answers.strip_punctuation(raw) == case["ground_truth_if_answers_differ"], raw
        assert answers.normalise_words(raw) == case["processDigitArticle"], raw
        assert answers.normalise_for_server(raw) == case["evalai_processor"], raw


def test_contraction_table_gives_back_one_apostrophe_and_keeps_the_published_slip():
    assert answers.normalise_words("dont couldnt've couldn'tve oclock lets") == (
        "don't couldn't've couldn't've o'clock lets"
    )
    assert answers.normalise_words("somebody'd") == "somebodyd"


def test_exact_match_ignores_case_outer_space_and_a_final_stop():
    assert answers.exact_match(" Red. ", "red") == 1.0
    assert answers.exact_match("red", ["blue", "RED"]) == 1.0
    assert answers.exact_match("reddish", ["red"]) == 0.0


def test_edit_distance_by_hand():
    assert answers.edit_distance("kitten", "sitting") == 3
    assert answers.edit_distance("", "abc") == 3
    assert answers.edit_distance("flaw", "lawn") == 2


def test_anls_by_hand():
    assert answers.anls("Hello", "hello") == 1.0
    assert answers.anls("hallo", ["world", "hello"]) == pytest.approx(0.8)
    # Distance 3 of 5 letters is a similarity of 0.4, below one half.
    assert answers.anls("hxxxo", ["hello"]) == 0.0
    assert answers.anls("", ["hello"]) == 0.0
