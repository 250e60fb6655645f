from __future__ import annotations

import pytest

from owl2_jax.convert.peft_files import parse_adapter_config
from owl2_jax.convert.peft_keys import PEFT_KEYS
from owl2_jax.core.errors import Owl2Error

# Every field of LoraConfig in PEFT 0.20, as save_pretrained writes it.
DEFAULTS = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
    "base_model_name_or_path": "MAGAer13/mplug-owl2-llama2-7b", "bias": "none", "corda_config": None,
    "ensure_weight_tying": False, "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False,
    "inference_mode": True, "init_lora_weights": True, "layer_replication": None,
    "layers_pattern": None, "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 16,
    "lora_bias": False, "lora_dropout": 0.05, "lora_ga_config": None, "megatron_config": None,
    "megatron_core": "megatron.core", "modules_to_save": None, "monteclora_config": None,
    "peft_type": "LORA", "peft_version": "0.20.0", "qalora_group_size": 16, "r": 8, "rank_pattern": {},
    "revision": None, "runtime_config": {"ephemeral_gpu_offload": False},
    "target_modules": ["q_proj", "o_proj"], "target_parameters": None, "task_type": "CAUSAL_LM",
    "trainable_token_indices": None, "use_bdlora": None, "use_dora": False, "use_qalora": False,
    "use_rslora": False, "velora_config": None,
}  # fmt: skip
# Values that make another adapter of it, by field.
OTHERS = {
    "alora_invocation_tokens": [1, 2], "alpha_pattern": {"q_proj": 4}, "arrow_config": {"top_k": 2},
    "bias": "all", "corda_config": {"corda_method": "ipm"}, "ensure_weight_tying": True,
    "eva_config": {"rho": 2.0}, "fan_in_fan_out": True, "init_lora_weights": "olora",
    "layer_replication": [[0, 2]], "loftq_config": {"loftq_bits": 4}, "lora_bias": True,
    "lora_ga_config": {"x": 1}, "megatron_config": {"x": 1},
    "monteclora_config": {"x": 1}, "peft_type": "ADALORA", "rank_pattern": {"q_proj": 4},
    "target_parameters": ["mlp.experts.down_proj"], "trainable_token_indices": [5],
    "use_bdlora": {"x": 1}, "use_dora": True, "use_qalora": True, "velora_config": {"x": 1},
}  # fmt: skip
INITS = ("pissa", "pissa_niter_16", "olora", "loftq", "eva", "corda", "lora_ga", "mica", "later")
NUMBERS = ("r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "layers_to_transform")


def parse(**changes):
    return parse_adapter_config({**DEFAULTS, **changes}, "adapter_config.json")


def test_every_field_of_peft_has_a_rule():
    settings = parse()
    assert (settings.rank, settings.alpha, settings.dropout) == (8, 16.0, 0.05)
    assert settings.selection.adapts("model.layers.3.self_attn.q_proj")
    assert not settings.selection.adapts("model.layers.3.self_attn.qq_proj")
    assert DEFAULTS.keys() <= PEFT_KEYS.keys()
    decided = {name for name, rule in PEFT_KEYS.items() if rule.values is not None and name in DEFAULTS}
    assert decided <= OTHERS.keys()


@pytest.mark.parametrize("field", OTHERS)
def test_fields_that_change_an_adapter_are_refused_by_name(field):
    message = "is of type 'ADALORA'" if field == "peft_type" else f"adapter_config.json: {field} is "
    with pytest.raises(Owl2Error, match=message):
        parse(**{field: OTHERS[field]})


@pytest.mark.parametrize("start", INITS)
def test_beginnings_that_change_the_base_are_refused(start):
    with pytest.raises(Owl2Error, match=f"init_lora_weights is '{start}'.*merge the adapter with PEFT"):
        parse(init_lora_weights=start)


@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal"])
def test_beginnings_of_the_adapter_alone_do_not_matter(start):
    assert parse(init_lora_weights=start) == parse()


def test_fields_of_a_later_peft_are_refused_unless_they_are_off():
    for off in (None, False, [], {}, ""):
        assert parse(use_later=off) == parse()
    for on in (True, 3, "fast", {"a": 1}, 0):
        with pytest.raises(Owl2Error, match=r"use_later is .*, and no such setting is known"):
            parse(use_later=on)


@pytest.mark.parametrize("field", NUMBERS)
def test_values_of_another_kind_are_refused_by_name(field):
    for value in (float("nan"), float("inf"), -1, -2.5, [-3], {"a": 1}, [{}], [None], "([", 10**400):
        with pytest.raises(Owl2Error, match=f"adapter_config.json: {field} "):
            parse(**{field: value})


def test_lists_of_names_and_patterns_are_checked():
    for value in (3, {"a": 1}, [None], "(["):
        for field in ("exclude_modules", "layers_pattern"):
            with pytest.raises(Owl2Error, match=f"adapter_config.json: {field} "):
                parse(**{field: value})
    with pytest.raises(Owl2Error, match="a list of layers, without groups"):
        parse(layers_pattern="(layers)")
    with pytest.raises(Owl2Error, match="PEFT takes layers only beside a list of names"):
        parse(target_modules=".*q_proj", layers_to_transform=[0])
    with pytest.raises(Owl2Error, match="'all-linear', which includes the vision encoder"):
        parse(target_modules="all-linear")


@pytest.mark.parametrize("field", ["r", "lora_alpha", "target_modules"])
def test_left_out_or_null_fields_that_are_needed_are_named(field):
    values = {name: value for name, value in DEFAULTS.items() if name != field}
    for broken in (values, {**values, field: None}):
        with pytest.raises(Owl2Error, match=f"adapter_config.json: {field} "):
            parse_adapter_config(broken, "adapter_config.json")
