"""Benchmarks during training."""

from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.hook import Evaluator
from owl2_jax.inference.loaded import LoadedModel


@pytest.fixture(scope="module")
def make_model(tiny_config, toy_tokenizer):
    return lambda params: LoadedModel(tiny_config, params, toy_tokenizer)


def test_an_evaluator_gives_the_metric_it_names(make_model, tiny_params):
    evaluator = Evaluator("drawn_yes_no", make_model, limit=6, slots=4)
    scores = evaluator(tiny_params)
    assert tuple(scores) == evaluator.metrics == ("accuracy",)
    assert 0 <= scores["accuracy"] <= 100
    assert evaluator(tiny_params) == scores
    assert len(evaluator.questions) == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("drawn_yesno", "did you mean 'drawn_yes_no'"),
        ("mm_vet", "mm_vet is scored by a judge or a server"),
        ("vqav2_testdev", "vqav2_testdev is scored by a judge or a server"),
        ("gqa_testdev", r"testdev_balanced_questions\.json is missing"),
    ],
)
def test_what_cannot_run_is_refused_before_training(make_model, tmp_path, name, message):
    with pytest.raises(Owl2Error, match=message):
        Evaluator(name, make_model, root=tmp_path)
