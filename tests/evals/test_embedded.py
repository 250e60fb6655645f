"""The benchmarks inside the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from owl2_jax.evals.base import Answered
from owl2_jax.evals.registry import GROUPS, get_benchmark


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("easy_vqa", 9673),
        ("drawn_group", 187),
        ("drawn_color", 132),
        ("drawn_yes_no", 374),
        ("facts", 3287),
        ("scenes", 4800),
        ("scenes_text", 4800),
        ("scenes_hard", 4800),
    ],
)
def test_counts(name, count):
    questions = list(get_benchmark(name).questions(Path()))
    assert len(questions) == count
    assert len({question.id for question in questions}) == count
    assert all(len(q.images) == q.prompt.count("<|image|>") for q in questions)


def test_easy_vqa_names_the_published_question_only_baseline():
    baselines = dict(get_benchmark("easy_vqa").baselines)
    assert baselines["question only"] == pytest.approx(67.0, abs=0.05)
    assert baselines["majority"] < baselines["question only"]


def test_scores_are_exact_matches_and_kinds_are_listed():
    benchmark = get_benchmark("easy_vqa")
    questions = list(benchmark.questions(Path()))[:200]
    answered = [
        Answered(question, text, benchmark.score(question, text))
        for index, question in enumerate(questions)
        for text in [question.answer.title() if index % 2 else "purple elephant"]
    ]
    metrics = benchmark.summarise(answered).metrics
    assert metrics["accuracy"] == 50.0
    assert {"color", "shape", "yes_no"} <= metrics.keys()
    assert questions[0].is_message


def test_a_benchmark_of_one_kind_has_no_parts_to_list():
    benchmark = get_benchmark("drawn_color")
    questions = list(benchmark.questions(Path()))
    answered = [Answered(question, question.answer, 1.0) for question in questions]
    assert benchmark.summarise(answered).metrics == {"accuracy": 100.0}


def test_the_group_holds_all_of_them():
    assert all(get_benchmark(name).files == () for name in GROUPS["embedded"])


@pytest.mark.parametrize("name", GROUPS["all_scenes"])
def test_scenes_cannot_be_guessed_from_the_question(name):
    baselines = dict(get_benchmark(name).baselines)
    assert 6 < baselines["question only"] < 21
    assert 12 < baselines["majority"] < 23  # of the scored split itself


def test_scenes_are_scored_by_kind():
    benchmark = get_benchmark("scenes")
    answered = [Answered(q, q.answer, 1.0) for q in benchmark.questions(Path())]
    kinds = {"count", "relation", "size", "odd", "word", "home"}
    assert benchmark.summarise(answered).metrics.keys() == {"accuracy", *kinds}
