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
        ("I am not sure.", None),
        ("I'm not entirely sure, but yes", "yes"),
        ("I am not sure whether there is no dog", None),
        ("I am not certain. There is not a dog.", "no"),
        ("Not sure", None),
        ("I cannot tell from the image.", None),
        ("I can\u2019t really say if it is one", None),
        ("It cannot be determined from the image", None),
        ("It is not possible to tell, but I say no", "no"),
        ("It is impossible to say", None),
        ("It is not clear whether it is one", None),
        ("The sky is not clear.", "no"),
        ("I don't know.", None),
        ("The sign does not say stop.", "no"),
        ("I cannot see the image.", None),
        ("I cannot see a dog.", "no"),
        ("There is not enough information to answer", None),
        ("No idea.", None),
        ("No way to tell.", None),
        ("No way!", "no"),
        ("No doubt, yes", "yes"),
        ("No doubt, there is a dog.", None),
        ("There is no doubt that it is a dog.", None),
        ("Without a doubt, yes.", "yes"),
        ("Without a doubt, no.", "no"),
        ("No problem, yes", "yes"),
        ("No question: yes", "yes"),
        ("There is no question about it, yes.", "yes"),
        ("There is no problem.", "no"),
        ("No, problem solved", "no"),
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
