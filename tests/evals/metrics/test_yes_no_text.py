from __future__ import annotations

import pytest

from owl2_jax.evals.metrics.mme import parse_yes_no
from owl2_jax.evals.metrics.pope import parse_pope
from owl2_jax.evals.metrics.yes_no_text import read_yes_no


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("YES!", "yes"),
        ("**No**", "no"),
        ("\uff39\uff25\uff33", "yes"),
        ("Yes, there is no dog but a cat.", "yes"),
        ("No, yes would be wrong.", "no"),
        ("The answer is yes", "yes"),
        ("Answer: No", "no"),
        ("I first thought no. The answer is yes.", "yes"),
        (r"$\boxed{\text{No}}$", "no"),
        ("<answer>yes</answer>", "yes"),
        ("There is not one.", "no"),
        ("There isn't a dog.", "no"),
        ("There are no dogs.", "no"),
        ("\u662f\u3002", "yes"),
        ("\u6ca1\u6709", "no"),
        ("", None),
        ("maybe", None),
        ("I know.", None),
        ("nothing", None),
        ("yesterday", None),
        ("yes or no?", "yes"),
        ("Is it yes or no?", None),
        ("A dog", None),
    ],
)
def test_yes_and_no_as_a_reader_takes_them(text, expected):
    assert read_yes_no(text) == expected


def test_where_the_published_readings_differ():
    assert [parse_yes_no(text) for text in ("I know", "know", "**Yes**", "The answer is yes")] == [
        "other", "no", "other", "other",
    ]  # fmt: skip
    assert [parse_pope(text) for text in ("", "maybe", "Answer: **No**", "There isn't a dog")] == ["yes"] * 4
    assert [read_yes_no(text) for text in ("know", "**Yes**", "The answer is yes", "", "Answer: **No**")] == [
        None, "yes", "yes", None, "no",
    ]  # fmt: skip
