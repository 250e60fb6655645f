"""Every shipped config of a training run is whole: fields, groups and sizes fit together."""

from pathlib import Path

import pytest

from owl2_jax.config import load_config, read_config_file
from owl2_jax.model.owl2 import abstract_params
from owl2_jax.training.param_groups import assign_groups

ROOT = Path(__file__).parent.parent / "configs"
RUNS = sorted(
    str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if "def get_config" in path.read_text()
)


@pytest.mark.parametrize("name", [name for name in RUNS if "train" in read_config_file(str(ROOT / name))])
def test_config_holds_together(name):
    config = load_config(str(ROOT / name))
    plans = assign_groups(abstract_params(config.model), config.train)
    assert any(plan.trained for plan in plans.values())
