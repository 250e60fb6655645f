"""Reading options out of answers."""

from __future__ import annotations

import pytest

from owl2_jax.evals.metrics.choice import option_lines, parse_choice
from owl2_jax.evals.metrics.open_answers import candidates, open_answer_matches

COLOURS = ["red", "green", "blue", "dark red"]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("B", 1),
        ("b", 1),
        ("(b)", 1),
        (" B.", 1),
        ("B. green", 1),
        ("B: it is red", 1),
        ("(C)", 2),
        ("(C) blue", 2),
        ("The answer is C", 2),
        ("The correct option: D.", 3),
        ("Answer: A", 0),
        ("I first thought (A), but (C)", 2),
        ("It must be C.", 2),
        ("green", 1),
        ("The car is green.", 1),
        ("Red", 0),
        ("A dark red car", None),
        ("A green car", 1),
        ("E", None),
        ("", None),
        ("redish", None),
        ("none of these", None),
        ("red or blue", None),
    ],
)
def test_choices(text, index):
    assert parse_choice(text, COLOURS) == index


def test_letters_beyond_the_options_do_not_count():
    assert parse_choice("C", ["yes", "no"]) is None
    assert parse_choice("C", ["yes", "no", "maybe"]) == 2


def test_option_lines():
    assert option_lines(["cat", "dog"]) == "A. cat\nB. dog"


@pytest.mark.parametrize(
    ("text", "answers", "right"),
    [
        ("42", "42", True),
        ("The answer is 1,000.", "1000", True),
        ("x = 3.141", "3.14", True),
        ("so it is 7, therefore 8", "7", False),
        ("It is a mitochondrion", ["mitochondrion", "mitochondria"], True),
        ("probably y", "x", False),
        ("6.02e23 molecules", "6.02e23", True),
        ("-5", "5", False),
    ],
)
def test_open_answers(text, answers, right):
    assert open_answer_matches(text, answers) is right


def test_candidates_keep_text_and_numbers():
    assert candidates("The result is 12 cm") == {"12 cm", 12.0}
