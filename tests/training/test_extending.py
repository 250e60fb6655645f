"""Which runs can be made longer or shorter, and what is said of the others."""

from __future__ import annotations

import numpy as np
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.training import extending
from owl2_jax.training.config import ScheduleConfig
from owl2_jax.training.optimizer import schedule
from owl2_jax.training.run_directory import check_run_directory, write_run_directory
from tests.training import runs


def length(run, before: list[str], after: list[str], done: int) -> None:
    """A run with `done` steps saved is resumed with other overrides."""
    write_run_directory(run, runs.run_config(*before).to_dict(), b"pieces")
    (run / "checkpoints" / str(done)).mkdir(parents=True)
    check_run_directory(run, runs.run_config(*after).to_dict())


def test_a_run_of_constant_rate_is_extended(tmp_path):
    constant = ["train.schedule.end_lr=1e-3", "train.schedule.warmup_steps=2"]
    length(tmp_path, constant, [*constant, "train.total_steps=400"], done=4)


def test_a_run_that_is_still_warming_up_is_extended(tmp_path):
    warming = ["train.total_steps=50", "train.schedule.warmup_steps=10"]
    length(tmp_path, warming, [*warming, "train.total_steps=90"], done=10)


def test_a_length_in_other_words_is_the_same_length(tmp_path):
    examples = ["train.total_steps=None", "train.total_examples=32", "train.examples_per_step=8"]
    length(tmp_path, ["train.examples_per_step=8"], examples, done=4)


def test_a_cosine_that_has_begun_is_not_extended_and_the_ways_out_are_named(tmp_path):
    with pytest.raises(Owl2Error) as caught:
        length(tmp_path, [], ["train.total_steps=8"], done=4)
    said = str(caught.value)
    assert f"{tmp_path} cannot be extended from 4 to 8 steps (train.total_steps)" in said
    assert "step 4 of the 4 that are done had 0.0005 and would now have 0.000933" in said
    assert f"train.start_from={tmp_path}" in said


def test_the_schedule_of_a_group_counts_too(tmp_path):
    constant = ["train.schedule.end_lr=1e-3", "train.groups.abstractor.schedule={'peak_lr': 1e-3}"]
    constant.append("train.groups.abstractor.schedule.warmup_steps=0")
    with pytest.raises(Owl2Error, match="cannot be extended"):
        length(tmp_path, constant, [*constant, "train.total_steps=8"], done=4)


def test_a_run_is_not_made_shorter_than_what_is_done(tmp_path):
    constant = ["train.schedule.end_lr=1e-3"]
    with pytest.raises(Owl2Error, match=r"has 4 steps saved, more than the 3 of train\.total_steps now"):
        length(tmp_path, constant, [*constant, "train.total_steps=3"], done=4)


def test_another_length_beside_another_setting_is_another_config(tmp_path):
    with pytest.raises(Owl2Error, match=r"another config \(train.seed: 0 -> 1; train.total_steps: 4 -> 8\)"):
        length(tmp_path, [], ["train.total_steps=8", "train.seed=1"], done=4)


@pytest.mark.parametrize(
    ("rule", "num_steps"),
    [
        ({"warmup_steps": 0}, 40),
        ({"warmup_steps": 7, "end_lr": 1e-6}, 40),
        ({"warmup_steps": 90}, 40),
        ({"warmup_steps": 3, "end_lr": 2e-5}, 40),
        ({"warmup_steps": 2000}, 1_000_000),
    ],
)
def test_rates_without_jax_are_those_of_training(rule, num_steps):
    config = ScheduleConfig(**rule)
    steps = np.unique(np.geomspace(1, num_steps, 60).astype(int)) - 1
    expected = np.asarray(schedule(config, num_steps)(steps))
    np.testing.assert_allclose(
        extending._rates(config, num_steps, steps), expected, rtol=1e-5, atol=1e-6 * 2e-5
    )


def test_rates_that_differ_less_than_float32_can_tell_are_the_same():
    rule = ScheduleConfig(warmup_steps=10)
    assert extending._first_change(rule, 10_000_000, 20_000_000, done=12) is None
    assert extending._first_change(rule, 10_000_000, 20_000_000, done=2_000_000) is not None
