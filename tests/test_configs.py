"""Every shipped config of a training run is whole: fields, groups and sizes fit together."""

from pathlib import Path

import pytest

from owl2_jax.config import load_config, read_config_file
from owl2_jax.core.errors import UnknownNameError
from owl2_jax.model.owl2 import abstract_params
from owl2_jax.training.param_groups import assign_groups

ROOT = Path(__file__).parent.parent / "configs"
RUNS = sorted(
    str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if "def get_config" in path.read_text()
)
RUNS += [f"{name}_7b.py:model=owl2_1" for name in ("pretrain", "instruct", "finetune", "lora")]


@pytest.mark.parametrize("name", [name for name in RUNS if "train" in read_config_file(str(ROOT / name))])
def test_config_holds_together(name):
    config = load_config(str(ROOT / name))
    plans = assign_groups(abstract_params(config.model), config.train)
    assert any(plan.trained for plan in plans.values())


@pytest.mark.parametrize("name", ["pretrain", "instruct", "finetune", "lora"])
def test_recipes_name_both_models(name):
    config = load_config(str(ROOT / f"{name}_7b.py:model=owl2_1"))
    assert config.model.decoder.vocab_size == 151_936
    assert config.data.tokenizer.endswith("qwen.tiktoken")
    with pytest.raises(UnknownNameError, match=r"'owl2\.1'.*owl2_1"):
        load_config(str(ROOT / f"{name}_7b.py:model='owl2.1'"))


def test_adapters_of_owl2_1_stand_beside_the_fused_projection_and_train_alone():
    config = load_config(str(ROOT / "lora_7b.py:model=owl2_1"))
    plans = assign_groups(abstract_params(config.model), config.train)
    trained = {name for name, plan in plans.items() if plan.trained and name.startswith("decoder/")}
    assert "decoder/layers/attention/qkv_image/q/lora_b" in trained
    assert "decoder/layers/attention/qkv_text/lora_a" in trained
    assert all("lora_" in name for name in trained)
