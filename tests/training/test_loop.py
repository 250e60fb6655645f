from __future__ import annotations

import dataclasses
import json
import signal

import jax
import numpy as np
import pytest

from owl2_jax.checkpoint.run_checkpoints import Checkpoints
from owl2_jax.core.errors import Owl2Error
from owl2_jax.training.initialize import starting_params
from owl2_jax.training.logging.metrics import read_metrics
from tests.training import runs


def test_two_steps_and_two_resumed_equal_four_straight_bit_for_bit(config, trainer, straight, tmp_path):
    first, begun = runs.run(config, tmp_path, stop_behind=2, trainer=trainer)
    assert (int(first.state.step), first.finished, first.signal) == (2, False, signal.SIGTERM)
    second, resumed = runs.run(config, tmp_path, trainer=trainer)
    assert (int(second.state.step), second.finished, second.signal) == (4, True, None)

    _, expected, tokens = straight
    runs.assert_equal_trees(second.state, expected.state)
    np.testing.assert_array_equal(np.stack(begun + resumed), np.stack(tokens))


def test_a_stop_between_two_saves_loses_no_step(config, trainer, straight, tmp_path):
    first, _ = runs.run(config, tmp_path, stop_behind=3, trainer=trainer)
    assert int(first.state.step) == 3
    second, resumed = runs.run(config, tmp_path, trainer=trainer)
    assert len(resumed) == 1
    runs.assert_equal_trees(second.state, straight[1].state)


def test_resumed_metrics_have_every_reading_once(config, trainer, straight, tmp_path):
    runs.run(config, tmp_path, stop_behind=3, trainer=trainer)
    # The run dies after the next reading, before it is saved; half a line is left.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 1.0, "elapsed_seconds": 1000.0, "goodput": 0.5}\n{"step": 5, "lo')
    runs.run(config, tmp_path, trainer=trainer)
    text = (tmp_path / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4]
    expected = {line["step"]: line for line in read_metrics(straight[0])}
    assert lines[-1]["loss"] == pytest.approx(lines[-1]["loss/captions"], abs=3)
    assert lines[0]["loss"] == expected[2]["loss"]
    assert lines[-1]["elapsed_seconds"] > 1000, "time that was spent on lost steps counts"


def test_a_run_that_is_complete_takes_no_step(config, trainer, straight):
    folder, expected, _ = straight
    again, batches = runs.run(config, folder, trainer=trainer)
    assert again.finished
    assert batches == []
    runs.assert_equal_trees(again.state, expected.state)


def test_frozen_leaves_keep_every_bit_and_every_trained_leaf_changes(config, trainer, straight):
    before = runs.leaves(starting_params(trainer))
    after = runs.leaves(straight[1].state.params)
    for name, leaf in before.items():
        same = np.array_equal(leaf, after[name])
        assert same == name.startswith("vision/"), name


def test_frozen_leaves_have_no_optimiser_state(trainer, straight):
    moments = straight[1].state.opt_state[1].mu
    assert set(moments) == {"abstractor", "decoder"}


def test_losses_are_split_by_set_and_by_images(straight):
    reading = read_metrics(straight[0])[-1]
    names = {"captions", "facts", "with_images", "without_images"}
    assert {key.partition("/")[2] for key in reading if key.startswith("loss/")} == names
    # Captions have images, facts have none.
    assert reading["loss/captions"] == pytest.approx(reading["loss/with_images"])
    assert reading["accuracy/facts"] == pytest.approx(reading["accuracy/without_images"])
    low, high = sorted([reading["loss/captions"], reading["loss/facts"]])
    assert low <= reading["loss"] <= high


def test_a_run_that_is_not_finite_stops_with_the_count(config, trainer, tmp_path):
    def broken(trainer):
        params = starting_params(trainer)
        params["decoder"]["embedding"] = params["decoder"]["embedding"] * np.nan
        return params

    strict = dataclasses.replace(trainer, config=dataclasses.replace(trainer.config, max_bad_steps=2))
    with (
        pytest.raises(Owl2Error, match=r"step 2: .* not finite for 2 steps in a row"),
        runs.pipeline_of(config, trainer) as pipeline,
    ):
        runs.train(strict, pipeline, tmp_path, start=broken)
    assert read_metrics(tmp_path)[0]["loss"] is None


def test_a_group_that_trains_without_changing_is_named(trainer, tmp_path):
    facts = {"kind": "embedded", "options": {"dataset": "facts"}}  # text alone: no work for the abstractor
    config = runs.run_config(f"data.datasets={ {'captions': facts, 'facts': facts} }")
    with pytest.raises(
        Owl2Error, match=r"group 'abstractor' trains, but nothing in it changed within 2 steps"
    ):
        runs.run(config, tmp_path, trainer=trainer)


def test_saved_state_restores_onto_another_mesh(config, straight):
    folder, expected, _ = straight
    other = runs.run_config("mesh={'fsdp': 2, 'tensor': 2}")
    trainer = runs.trainer_of(other, devices=4)
    with Checkpoints(folder, 2, None, trainer.fingerprint) as checkpoints:
        state, _ = checkpoints.restore(trainer.abstract_state())
    runs.assert_equal_trees(jax.device_get(state), expected.state)
    kernel = state.params["decoder"]["layers"]["attention"]["q"]["kernel"]
    assert len(kernel.sharding.device_set) == 4
    assert not kernel.sharding.is_fully_replicated
