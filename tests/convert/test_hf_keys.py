"""Key lists of real files, each key with a value of such a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from owl2_jax.convert import hf_keys
from owl2_jax.convert.hf_config import read_clip_config, read_hf_config, read_language_config
from owl2_jax.core.errors import Owl2Error

GOLDEN = Path(__file__).parents[1] / "golden"

LLAMA_2 = {
    "_name_or_path": "meta-llama/Llama-2-7b-hf", "architectures": ["LlamaForCausalLM"], "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
    "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False, "torch_dtype": "float16",
    "transformers_version": "4.31.0.dev0", "use_cache": True, "vocab_size": 32000,
}  # fmt: skip
# As LLaMA-1 was converted, and as transformers 5 and trainers write the same model.
LLAMA_1 = {**LLAMA_2, "max_sequence_length": 2048, "pad_token_id": 0}
LLAMA_5 = {
    **{k: v for k, v in LLAMA_2.items() if k not in ("rope_scaling", "torch_dtype")},
    "attention_bias": False, "attention_dropout": 0.0, "dtype": "bfloat16", "head_dim": 128,
    "mlp_bias": False, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "transformers_version": "5.0.0", "pad_token_id": None, "unsloth_version": "2025.1",
    "output_hidden_states": False, "return_dict": True, "id2label": {"0": "LABEL_0"}, "is_decoder": False,
}  # fmt: skip
MISTRAL = {
    **LLAMA_2, "model_type": "mistral", "num_key_value_heads": 8, "intermediate_size": 14336,
    "rope_theta": 1000000.0, "sliding_window": None, "max_position_embeddings": 32768, "vocab_size": 32768,
}  # fmt: skip
ENCODER = {
    "attention_dropout": 0.0, "dropout": 0.0, "hidden_act": "quick_gelu", "hidden_size": 1024,
    "image_size": 224, "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 4096,
    "layer_norm_eps": 1e-05, "model_type": "clip_vision_model", "num_attention_heads": 16,
    "num_channels": 3, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768,
    "_name_or_path": "", "add_cross_attention": False, "chunk_size_feed_forward": 0, "pruned_heads": {},
    "tie_encoder_decoder": False, "tie_word_embeddings": True, "torchscript": False, "top_k": 50,
}  # fmt: skip
CLIP = {
    "_name_or_path": "clip-vit-large-patch14/", "architectures": ["CLIPModel"], "initializer_factor": 1.0,
    "logit_scale_init_value": 2.6592, "model_type": "clip", "projection_dim": 768,
    "text_config": {"hidden_size": 768}, "text_config_dict": {"hidden_size": 768},
    "torch_dtype": "float32", "transformers_version": None, "vision_config": ENCODER,
    "vision_config_dict": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
                           "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768},
}  # fmt: skip
# What the released training script adds to the released file.
TRAINED = {
    "image_aspect_ratio": "pad", "image_grid_pinpoints": None, "tune_visual_abstractor": True,
    "freeze_vision_model": True, "visual_abstractor_lr": None, "tokenizer_padding_side": "right",
    "auto_map": {"AutoConfig": "configuration_mplug_owl2.MPLUGOwl2Config"},
}  # fmt: skip


def released() -> dict:
    return json.loads((GOLDEN / "official_7b_config.json").read_text())


@pytest.mark.parametrize("values", [LLAMA_2, LLAMA_1, LLAMA_5])
def test_files_of_llama_are_read(values: dict) -> None:
    config = read_language_config(values)
    assert (config.width, config.rope_theta, config.max_length) == (4096, 10000.0, 4096)


def test_files_of_mistral_clip_and_the_release_are_read() -> None:
    assert read_language_config(MISTRAL).rope_theta == 1e6
    assert read_clip_config(CLIP) == read_clip_config(ENCODER)
    assert read_hf_config({**released(), **TRAINED}) == read_hf_config(released())


# A value of each kind of key that changes the model, by where it stands.
REFUSED = {
    "llama": {
        "attention_bias": True, "mlp_bias": True, "hidden_act": "gelu", "head_dim": 64,
        "sliding_window": 4096, "use_sliding_window": True, "partial_rotary_factor": 0.5,
        "attention_dropout": 0.1,
        "rope_interleaved": True, "layer_types": ["sliding_attention"] * 32, "pruned_heads": {"0": [1]},
        "quantization_config": {"bits": 4}, "add_cross_attention": True, "is_encoder_decoder": True,
        "rope_scaling": {"type": "dynamic", "factor": 2.0}, "logits_scaling": 8.0,
        "embedding_multiplier": 12.0, "final_logit_softcapping": 30.0, "num_local_experts": 8,
        "qk_norm": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5},
        "per_layer_config": {"0": {"hidden_act": "gelu"}}, "load_in_8bit": True, "clip_qkv": 8.0,
    },
    "encoder": {
        "hidden_act": "gelu", "num_channels": 4, "attention_dropout": 0.1, "dropout": 0.1,
        "quantization_config": {"bits": 4}, "pruned_heads": {"0": [1]}, "model_type": "siglip",
        "num_register_tokens": 4,
    },
    "abstractor": {
        "add_v2t_pos_emb": True, "use_cls_token": False, "attention_probs_dropout_prob": 0.1,
        "encoder_hidden_size": 512, "grid_size": 16, "hidden_size": 512, "model_type": "blip_2_qformer",
        "cross_attention_frequency": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("key", REFUSED["llama"])
def test_keys_of_a_decoder_that_change_it_are_refused_by_name(key: str) -> None:
    value = REFUSED["llama"][key]
    name = key if not isinstance(value, dict) or key.startswith(("pruned", "quant", "per")) else f"{key}: "
    for read, values in ((read_language_config, LLAMA_2), (read_hf_config, released())):
        with pytest.raises(Owl2Error, match=rf"^config\.json.*\b{name}"):
            read({**values, key: value})


@pytest.mark.parametrize("key", REFUSED["encoder"])
def test_keys_of_an_encoder_that_change_it_are_refused_by_name(key: str) -> None:
    with pytest.raises(Owl2Error, match=rf"\b{key}"):
        read_clip_config({**ENCODER, key: REFUSED["encoder"][key]})
    values = released()
    values["visual_config"]["visual_model"][key] = REFUSED["encoder"][key]
    with pytest.raises(Owl2Error, match=rf"visual_model: {key} is "):
        read_hf_config(values)


@pytest.mark.parametrize("key", REFUSED["abstractor"])
def test_keys_of_the_abstractor_that_change_it_are_refused_by_name(key: str) -> None:
    values = released()
    values["visual_config"]["visual_abstractor"][key] = REFUSED["abstractor"][key]
    with pytest.raises(Owl2Error, match=rf"visual_abstractor(: |\.){key} is "):
        read_hf_config(values)


NUMBERS = [
    *((LLAMA_2, read_language_config, key) for key in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "rms_norm_eps", "max_position_embeddings", "rope_theta", "head_dim",
    )),
    *((ENCODER, read_clip_config, key) for key in (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "patch_size",
        "image_size", "layer_norm_eps", "num_channels",
    )),
]  # fmt: skip


@pytest.mark.parametrize(("values", "read", "key"), NUMBERS)
def test_no_number_may_be_nan_null_text_or_a_list(values: dict, read, key: str) -> None:
    wrong = [float("nan"), float("inf"), "4096", [4096], {"a": 1}, True, 0, -1, 10**400, "", []]
    if key not in ("num_key_value_heads", "head_dim"):  # where null means the usual
        wrong.append(None)
    if key not in ("rms_norm_eps", "layer_norm_eps", "rope_theta"):
        wrong.append(2.5)
    for value in wrong:
        with pytest.raises(Owl2Error, match=rf"config\.json: {key} "):
            read({**values, key: value})


def test_numbers_of_the_abstractor_and_of_groups() -> None:
    for key in ("num_learnable_queries", "num_hidden_layers", "layer_norm_eps", "grid_size"):
        for value in (float("nan"), None, "8", [8], True):
            values = released()
            values["visual_config"]["visual_abstractor"][key] = value
            with pytest.raises(Owl2Error, match=rf"visual_abstractor(: |\.){key} "):
                read_hf_config(values)
    for value in ([], "x", 3, True):
        for group in ("rope_scaling", "rope_parameters"):
            with pytest.raises(Owl2Error, match=f"{group} should be a group of settings"):
                read_language_config({**LLAMA_2, group: value})
        with pytest.raises(Owl2Error, match="visual_config should be a group of settings"):
            read_hf_config({**released(), "visual_config": value})


def test_a_value_as_deep_as_json_reads_is_shown_short() -> None:
    deep: list = []
    for _ in range(900):
        deep = [deep]
    with pytest.raises(Owl2Error, match=r"later_setting is .*no such setting is known") as error:
        read_language_config({**LLAMA_2, "later_setting": deep})
    assert len(str(error.value)) < 300


def test_misspelt_key_gets_the_nearest_name() -> None:
    with pytest.raises(Owl2Error, match=r"rope_teta is 500000\.0.*did you mean rope_theta\?"):
        read_language_config({**LLAMA_2, "rope_teta": 500000.0})


def test_every_rule_says_whether_it_is_read_harmless_or_has_harmless_values() -> None:
    for rules in (hf_keys.OWL2, hf_keys.LLAMA, hf_keys.CLIP, hf_keys.CLIP_VISION, hf_keys.ABSTRACTOR):
        for name, rule in rules.items():
            assert not (rule.read and rule.values is not None), name
            assert rule.values is None or rule.values, name
