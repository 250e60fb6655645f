"""The upper reference: it learns, and what it says of splits is what it scored there."""

from __future__ import annotations

import numpy as np

from owl2_jax.data_tools.reference import scenes
from owl2_jax.data_tools.reference.network import Data, fit


def test_the_network_learns_what_question_and_image_say_together():
    rng = np.random.default_rng(0)
    labels, asked = rng.integers(0, 2, (2, 128)).astype(np.int32)
    images = np.where((labels ^ asked)[:, None, None, None], 255, 0) + np.zeros((128, 64, 64, 3))
    data = Data(images.astype(np.uint8), asked[:, None].astype(np.int32), labels)
    answer = fit(data, inputs=2, answers=2, steps=30, batch=16)
    assert (answer(data) == labels).mean() > 0.95


def test_the_command_tells_every_kind_of_both_splits(monkeypatch, capsys):
    asked = {}

    def pretended(data, inputs, answers, *, steps):
        asked.update(examples=len(data.labels), steps=steps)
        return lambda scored: scored.labels

    monkeypatch.setattr("owl2_jax.data_tools.reference.network.fit", pretended)
    assert scenes.main(["--steps=3", "--examples=600", "--scored=300"]) == 0
    assert asked == {"examples": 600, "steps": 3}
    test, composed, cost = capsys.readouterr().out.splitlines()
    assert test.startswith("test      100.0 %") or "word" in test
    assert [part.split(" ")[0] for part in composed.split("  ") if part[0].islower()][1:] == [
        "count", "relation", "size", "odd", "word"
    ]  # fmt: skip
    assert cost.endswith("s of CPU time")


def test_words_that_training_never_had_are_wrong(monkeypatch):
    monkeypatch.setattr(
        "owl2_jax.data_tools.reference.network.fit", lambda *_, **__: lambda one: abs(one.labels)
    )
    found = scenes.train_and_score(2, 1, 1200, 100)
    assert found["composed"]["word"] == 0.0
    assert found["composed"]["relation"] == 100.0


def test_wrong_numbers_are_named(capsys):
    assert scenes.main(["--difficulty=4"]) == 2
    assert "--difficulty must be from 1 to 3, found 4" in capsys.readouterr().err
