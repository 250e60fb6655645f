from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from owl2_jax.checkpoint.best import BestConfig
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.config import DatasetConfig
from owl2_jax.training.config import HeldoutConfig
from owl2_jax.training.heldout import heldout_metrics, make_heldout
from owl2_jax.training.hooks import Hook, check_best, evaluate
from owl2_jax.training.initialize import starting_params
from owl2_jax.training.logging.metrics import read_metrics
from tests.training import runs

SETS = {
    "facts": DatasetConfig("embedded", {"dataset": "facts", "split": "test"}),
    "captions": DatasetConfig("embedded", {"dataset": "captions"}),
}


def test_heldout_loss_is_the_same_each_time_and_adds_up(config, trainer):
    heldout = HeldoutConfig(SETS, every_steps=2, max_samples=12)
    hook = make_heldout(heldout, config.data, trainer)
    params = starting_params(trainer)
    found = evaluate([hook], params)
    assert found == evaluate([hook], params)
    assert set(found) == {f"heldout/{name}" for name in heldout_metrics(heldout)}
    low, high = sorted([found["heldout/loss/facts"], found["heldout/loss/captions"]])
    assert low <= found["heldout/loss"] <= high
    # An untrained model spreads its guesses over the vocabulary.
    assert found["heldout/loss"] == pytest.approx(np.log(4096), abs=1.0)


def test_evaluations_stand_in_the_readings_and_choose_the_best(config, trainer, tmp_path):
    scores = iter([3.0, 1.0])
    hook = Hook("heldout", 2, lambda params: {"loss": next(scores)}, ("loss",))
    outcome, _ = runs.run(config, tmp_path, trainer=trainer, hooks=(hook,))
    assert outcome.finished
    assert [(line["step"], line["heldout/loss"]) for line in read_metrics(tmp_path)] == [(2, 3.0), (4, 1.0)]


def test_best_step_of_a_run_stays_beside_the_newest(trainer, tmp_path):
    config = runs.run_config("train.keep_checkpoints=1", "train.save_every_steps=1", "train.best={}")
    best = dataclasses.replace(trainer, config=config.train)
    scores = iter([3.0, 1.0, 2.0, 2.5])
    hook = Hook("heldout", 1, lambda params: {"loss": next(scores)}, ("loss",))
    runs.run(config, tmp_path, trainer=best, hooks=(hook,))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "4"]


def test_a_metric_that_nothing_measures_is_refused_with_near_names():
    check_best(BestConfig("heldout/loss"), ["heldout/loss"])
    with pytest.raises(Owl2Error, match="did you mean 'heldout/loss'"):
        check_best(BestConfig("heldot/loss"), ["heldout/loss"])
    with pytest.raises(Owl2Error, match="evaluates nothing"):
        check_best(BestConfig(), [])
