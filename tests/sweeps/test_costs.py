from __future__ import annotations

import pytest

from owl2_jax.config import apply_overrides
from owl2_jax.core.errors import Owl2Error
from owl2_jax.sweeps.costs import Machine, check_fits, state_bytes, step_flops
from tests.training import runs


def test_step_costs_more_with_more_queries_and_patches_and_less_when_frozen():
    base = step_flops(runs.run_config())
    assert step_flops(runs.run_config("model.abstractor.num_queries=8")) > base
    assert step_flops(runs.run_config("model.vision.image_size=56")) > base
    groups = [
        {"name": "f", "pattern": "(vision|abstractor)/.*", "trainable": False},
        {"name": "d", "pattern": ".*"},
    ]
    assert step_flops(runs.run_config(f"train.groups={groups!r}")) < base


def test_state_is_parameters_gradients_and_two_moments_of_what_trains():
    everything = runs.run_config("train.groups=[{'name': 'all', 'pattern': '.*'}]")
    some = runs.run_config()  # the vision encoder is frozen
    parameters = state_bytes(everything) / (4 + 4 + 4 + 4)
    vision = (state_bytes(everything) - state_bytes(some)) / (4 + 4 + 4)
    assert parameters == int(parameters)
    assert 0 < vision < parameters


def test_point_that_cannot_fit_is_named_with_the_arithmetic(make_sweep, monkeypatch):
    sweep = make_sweep(axes={"width": {"32": [], "64": ["model.decoder.width=64"]}})
    small = state_bytes(sweep.run_config(sweep.runs[0]))
    check_fits(sweep, Machine("v5e:2x2", 4, small))
    with pytest.raises(
        Owl2Error,
        match=r"point width-64 cannot fit: its .* GiB, v5e:2x2 has 4 x .* = .* GiB; name a larger slice",
    ):
        check_fits(sweep, Machine("v5e:2x2", 4, small / 3.5))


def test_state_of_the_full_model_is_sixteen_bytes_a_parameter():
    values = apply_overrides(
        runs.VALUES, ["data.row_length=256", "train.groups=[{'name': 'all', 'pattern': '.*'}]"]
    )
    config = runs.RunConfig.from_dict({**values, "model": {"preset": "owl2_7b"}})
    assert state_bytes(config) == 8_197_859_328 * 16
