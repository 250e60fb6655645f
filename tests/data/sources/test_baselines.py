from __future__ import annotations

import pytest

from owl2_jax.data.sources.baselines import majority_baseline, question_only_baseline
from owl2_jax.data.sources.embedded import EmbeddedSource


def test_question_alone_answers_two_thirds_of_easy_vqa():
    score = question_only_baseline(EmbeddedSource("easy_vqa"), EmbeddedSource("easy_vqa", "test"))
    assert score == pytest.approx(0.670, abs=5e-4)


def test_majority_is_the_share_of_the_commonest_answer():
    split = EmbeddedSource("drawn_vqa", "test")
    shares = majority_baseline(split)
    assert set(shares) == {"group", "color", "yes_no", "group_yes_no"}
    assert shares["yes_no"] == shares["group_yes_no"] == 0.5
    answers = [answer for kind, _, answer in split.question_answers() if kind == "group"]
    assert shares["group"] == max(map(answers.count, answers)) / len(answers)


def test_unseen_questions_get_the_commonest_answer_of_their_kind():
    score = question_only_baseline(EmbeddedSource("facts"), EmbeddedSource("facts", "test"))
    assert 0.1 < score < 0.2
