from __future__ import annotations

import numpy as np

from owl2_jax.training.step_window import StepWindow


class Loss:
    """A scalar of the device that tells what was asked of it."""

    def __init__(self) -> None:
        self.waited, self.done = False, False

    def block_until_ready(self):
        self.waited = True
        return self

    def is_ready(self) -> bool:
        return self.done


def test_a_third_step_waits_for_the_first_and_only_for_that():
    window, losses = StepWindow(), [Loss(), Loss(), Loss()]
    for loss, waited in zip(losses, ([], [], [0]), strict=True):
        window.make_room()
        assert [number for number, one in enumerate(losses) if one.waited] == waited
        window.add({"loss": loss})
    window.make_room()
    assert [loss.waited for loss in losses] == [True, True, False]


def test_the_device_is_idle_before_the_first_step_and_when_the_last_one_is_done():
    window, loss = StepWindow(), Loss()
    assert window.is_idle
    window.add({"loss": loss})
    assert not window.is_idle
    loss.done = True
    assert window.is_idle


def test_a_window_is_fetched_once():
    window = StepWindow()
    window.add({"loss": np.float32(1)})
    window.add({"loss": np.float32(2)})
    assert [float(metrics["loss"]) for metrics in window.fetch()] == [1.0, 2.0]
    assert window.fetch() == []
    assert window.is_idle
