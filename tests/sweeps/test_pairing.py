from __future__ import annotations

from pathlib import Path

import pytest

from owl2_jax.data.pipeline import open_mixture
from owl2_jax.sweeps.grid import Run, load_sweep
from owl2_jax.sweeps.pairing import unlike_base

CLAIMS = Path(__file__).parents[2] / "configs" / "sweeps" / "claims.py"


@pytest.fixture(scope="module")
def claims():
    return load_sweep(str(CLAIMS))


def order(sweep, name: str, seed: int) -> list:
    """Which records a run reads, in order, as its own pipeline gives them."""
    config = sweep.run_config(Run(next(p for p in sweep.points if p.name == name), seed))
    opened = open_mixture(config.data, config.model.vision.image_size, config.model.tokens_per_image)
    return [opened.addresses[place] for place in range(500)]


def test_runs_of_a_seed_read_the_same_records_in_the_same_order(claims):
    base, other = order(claims, "base", 0), order(claims, "base", 1)
    assert base != other
    for name in ("queries-32", "pixels-32", "module-none", "vision-frozen"):
        assert order(claims, name, 0) == base, name
    assert order(claims, "queries-32", 1) == other
    assert order(claims, "data-images", 0) != base


def test_points_that_read_other_data_are_told(claims):
    found = {point.name: unlike_base(claims, point) for point in claims.points}
    assert {name: why for name, why in found.items() if why} == {
        "data-text": ("data.datasets",), "data-images": ("data.datasets",),
        "start-warmup": ("train.start_from",),
    }  # fmt: skip


def test_random_parameters_of_another_shape_and_other_checkpoints_are_told(make_sweep):
    module = {"full": [], "other": ["train.start_from='elsewhere'"], "window": ["data.window=5"]}
    sweep = make_sweep(
        axes={"module": module, "queries": {"4": [], "2": ["model.abstractor.num_queries=2"]}},
        design="one_at_a_time",
    )
    found = {point.name: unlike_base(sweep, point) for point in sweep.points}
    assert found["base"] == found["module-window"] == ()
    assert "train.start_from" in found["module-other"]
    assert found["queries-2"] == ("model, from random parameters",)
