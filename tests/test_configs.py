"""Every shipped config of a training run is whole: fields, groups and sizes fit together."""

from pathlib import Path

import pytest

from owl2_jax.config import load_config, read_config_file
from owl2_jax.model.owl2 import abstract_params
from owl2_jax.training.groups import plan_leaves

ROOT = Path(__file__).parent.parent / "configs"
RUNS = sorted(
    str(path.relative_to(ROOT)) for path in ROOT.glob("*/*.py") if "def get_config" in path.read_text()
)


@pytest.mark.parametrize("name", [name for name in RUNS if "train" in read_config_file(str(ROOT / name))])
def test_config_holds_together(name):
    config = load_config(str(ROOT / name))
    plans = plan_leaves(abstract_params(config.model), config.train)
    assert any(plan.trained for plan in plans.values())


def test_stage_1_of_the_full_model_trains_what_the_paper_says():
    config = load_config(str(ROOT / "owl2_7b" / "stage1.py"))
    plans = plan_leaves(abstract_params(config.model), config.train)
    frozen = {name for name, plan in plans.items() if not plan.trained}
    assert frozen == {name for name in plans if name.startswith("decoder/") and "_image" not in name}
    assert (config.data.rows, config.train.num_steps) == (8192, 42_500)
    layers = plans["vision/layers/mlp/fc1/kernel"].lr.ravel()
    assert layers[-1] == pytest.approx(0.9)
    assert plans["vision/patch_embed/kernel"].lr == pytest.approx(0.9**25)


def test_stage_2_of_the_full_model_trains_everything():
    config = load_config(str(ROOT / "owl2_7b" / "stage2.py"))
    assert all(plan.trained for plan in plan_leaves(abstract_params(config.model), config.train).values())
    assert config.data.rows * config.train.num_steps == pytest.approx(1.23e6, rel=0.01)
