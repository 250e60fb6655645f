"""`config.json` of the released format to `Owl2Config` and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from owl2_jax.convert.hf_defaults import NESTED_DEFAULTS, TRANSFORMERS_VERSION
from owl2_jax.core.errors import Owl2Error
from owl2_jax.model.config import AbstractorConfig, DecoderConfig, Owl2Config, VisionConfig

MODEL_TYPE: Final = "mplug_owl2"
ARCHITECTURE: Final = "MPLUGOwl2LlamaForCausalLM"

# Settings that change the computation, with the one value that ours has.
# A file that leaves one out means that value.
_DECODER_FIXED: Final = {"hidden_act": "silu", "attention_bias": False, "rope_scaling": None}
_VISION_FIXED: Final = {
    "hidden_act": "quick_gelu", "num_channels": 3, "use_cls_token": True, "use_post_layernorm": True,
}  # fmt: skip
_ABSTRACTOR_FIXED: Final = {"add_v2t_pos_emb": False, "use_cls_token": True}


def read_hf_config(values: Mapping[str, Any], where: str = "config.json") -> Owl2Config:
    """The model that a released `config.json` describes.

    Raises:
      Owl2Error: another model type, a setting that our model does not have, a
        size that is missing or disagrees with another.
    """
    if values.get("model_type") != MODEL_TYPE:
        raise Owl2Error(
            f"{where}: model_type is {values.get('model_type')!r}, expected {MODEL_TYPE!r}; "
            "start from plain LLaMA-2 and CLIP with `owl2 convert init`"
        )
    visual = _group(values, "visual_config", where)
    vision = _group(visual, "visual_model", f"{where} visual_config")
    abstractor = _group(visual, "visual_abstractor", f"{where} visual_config")
    check_fixed(vision, _VISION_FIXED, f"{where} visual_model")
    check_fixed(abstractor, _ABSTRACTOR_FIXED, f"{where} visual_abstractor")
    config = Owl2Config(
        vision=read_vision(vision, f"{where} visual_model"),
        abstractor=_read_abstractor(abstractor, f"{where} visual_abstractor"),
        decoder=read_decoder(values, where),
    )
    _check_agreement(config, abstractor, where)
    return config


def read_decoder(values: Mapping[str, Any], where: str) -> DecoderConfig:
    """The decoder of a LLaMA-like `config.json`."""
    check_fixed(values, _DECODER_FIXED, where)
    heads = _size(values, "num_attention_heads", where)
    return DecoderConfig(
        vocab_size=_size(values, "vocab_size", where),
        width=_size(values, "hidden_size", where),
        num_layers=_size(values, "num_hidden_layers", where),
        num_heads=heads,
        num_kv_heads=_size(values, "num_key_value_heads", where, heads),
        mlp_dim=_size(values, "intermediate_size", where),
        rope_theta=float(values.get("rope_theta", 10000.0)),
        norm_eps=float(values.get("rms_norm_eps", 1e-6)),
        max_length=_size(values, "max_position_embeddings", where, 2048),
    )


def read_vision(values: Mapping[str, Any], where: str) -> VisionConfig:
    """The encoder of a CLIP-like `config.json`."""
    return VisionConfig(
        width=_size(values, "hidden_size", where),
        num_layers=_size(values, "num_hidden_layers", where),
        num_heads=_size(values, "num_attention_heads", where),
        mlp_dim=_size(values, "intermediate_size", where),
        patch_size=_size(values, "patch_size", where),
        image_size=_size(values, "image_size", where),
        norm_eps=float(values.get("layer_norm_eps", 1e-6)),
    )


def _read_abstractor(values: Mapping[str, Any], where: str) -> AbstractorConfig:
    return AbstractorConfig(
        num_layers=_size(values, "num_hidden_layers", where),
        num_heads=_size(values, "num_attention_heads", where),
        mlp_dim=_size(values, "intermediate_size", where),
        num_queries=_size(values, "num_learnable_queries", where),
        norm_eps=float(values.get("layer_norm_eps", 1e-6)),
    )


def _check_agreement(config: Owl2Config, abstractor: Mapping[str, Any], where: str) -> None:
    """Sizes that the file states twice."""
    vision = config.vision
    wanted = {
        "hidden_size": (vision.width, "visual_model.hidden_size"),
        "encoder_hidden_size": (vision.width, "visual_model.hidden_size"),
        "grid_size": (vision.grid_size, "visual_model.image_size / patch_size"),
    }
    for name, (expected, source) in wanted.items():
        found = abstractor.get(name, expected)
        if found != expected:
            raise Owl2Error(
                f"{where}: visual_abstractor.{name} is {found}, but {source} is {expected}; make them equal"
            )


def check_fixed(values: Mapping[str, Any], fixed: Mapping[str, Any], where: str) -> None:
    """Raises `Owl2Error` when a setting has a value that our model cannot compute."""
    for name, expected in fixed.items():
        if values.get(name, expected) != expected:
            raise Owl2Error(f"{where}: {name} is {values[name]!r}; only {expected!r} is supported")


def _group(values: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    group = values.get(name)
    if not isinstance(group, Mapping):
        raise Owl2Error(f"{where}: {name} is missing, it should be a group of settings")
    return group


def _size(values: Mapping[str, Any], name: str, where: str, default: int | None = None) -> int:
    value = values.get(name)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Owl2Error(f"{where}: {name} should be a positive whole number, found {value!r}")
    return value


def write_hf_config(config: Owl2Config, torch_dtype: str, bos_id: int = 1, eos_id: int = 2) -> dict[str, Any]:
    """The `config.json` that the original writes, and needs, for `config`.

    Args:
      torch_dtype: "float32", "float16" or "bfloat16", of the weights beside it.
      bos_id, eos_id: token ids of the tokenizer beside it.
    """
    decoder = config.decoder
    return {
        "architectures": [ARCHITECTURE],
        "attention_bias": False,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "hidden_act": "silu",
        "hidden_size": decoder.width,
        "initializer_range": 0.02,
        "intermediate_size": decoder.mlp_dim,
        "max_position_embeddings": decoder.max_length,
        "model_type": MODEL_TYPE,
        "num_attention_heads": decoder.num_heads,
        "num_hidden_layers": decoder.num_layers,
        "num_key_value_heads": decoder.num_kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": decoder.norm_eps,
        "rope_scaling": None,
        "rope_theta": decoder.rope_theta,
        "tie_word_embeddings": False,
        "torch_dtype": torch_dtype,
        "transformers_version": TRANSFORMERS_VERSION,
        "use_cache": True,
        "visual_config": {
            "visual_abstractor": _write_abstractor(config),
            "visual_model": _write_vision(config.vision),
        },
        "vocab_size": decoder.vocab_size,
    }


def _write_vision(vision: VisionConfig) -> dict[str, Any]:
    return {
        **NESTED_DEFAULTS,
        "attention_dropout": 0.0,
        "hidden_act": "quick_gelu",
        "hidden_size": vision.width,
        "image_size": vision.image_size,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": vision.mlp_dim,
        "layer_norm_eps": vision.norm_eps,
        "model_type": "mplug_owl_vision_model",
        "num_attention_heads": vision.num_heads,
        "num_channels": 3,
        "num_hidden_layers": vision.num_layers,
        "patch_size": vision.patch_size,
        "projection_dim": 768,
        "use_cls_token": True,
        "use_flash_attn": False,
        "use_post_layernorm": True,
    }


def _write_abstractor(config: Owl2Config) -> dict[str, Any]:
    abstractor = config.abstractor
    return {
        **NESTED_DEFAULTS,
        "add_v2t_pos_emb": False,
        "attention_probs_dropout_prob": 0.0,
        "encoder_hidden_size": config.vision.width,
        "grid_size": config.vision.grid_size,
        "hidden_size": config.vision.width,
        "initializer_range": 0.02,
        "intermediate_size": abstractor.mlp_dim,
        "layer_norm_eps": abstractor.norm_eps,
        "model_type": "mplug_owl_visual_abstract",
        "num_attention_heads": abstractor.num_heads,
        "num_hidden_layers": abstractor.num_layers,
        "num_learnable_queries": abstractor.num_queries,
        "use_cls_token": True,
    }
