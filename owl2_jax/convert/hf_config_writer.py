"""Our configuration to the `config.json` that the original writes."""

from __future__ import annotations

from typing import Any

from owl2_jax.convert.formats import OWL2_TYPE, format_of
from owl2_jax.convert.hf_defaults import NESTED_DEFAULTS, TRANSFORMERS_VERSION
from owl2_jax.convert.qwen_config import write_qwen_decoder
from owl2_jax.model.config import DecoderConfig, Owl2Config, VisionConfig


def write_hf_config(config: Owl2Config, torch_dtype: str, bos_id: int = 1, eos_id: int = 2) -> dict[str, Any]:
    """The `config.json` that the original writes, and needs, for `config`.

    Args:
      torch_dtype: "float32", "float16" or "bfloat16", of the weights beside it.
      bos_id, eos_id: token ids of the tokenizer beside it; mPLUG-Owl2.1's file has none.

    Raises:
      Owl2Error: no released format holds such a model.
    """
    found, decoder = format_of(config), config.decoder
    if found.model_type == OWL2_TYPE:
        written = {**_write_llama(decoder), "bos_token_id": bos_id, "eos_token_id": eos_id}
    else:
        written = write_qwen_decoder(decoder, torch_dtype)
    return {
        **written,
        "architectures": [found.architecture],
        "model_type": found.model_type,
        "torch_dtype": torch_dtype,
        "transformers_version": TRANSFORMERS_VERSION,
        "visual_config": {
            "visual_abstractor": _write_abstractor(config),
            "visual_model": _write_vision(config.vision),
        },
    }


def _write_llama(decoder: DecoderConfig) -> dict[str, Any]:
    return {
        "attention_bias": False,
        "hidden_act": "silu",
        "hidden_size": decoder.width,
        "initializer_range": 0.02,
        "intermediate_size": decoder.mlp_dim,
        "max_position_embeddings": decoder.max_length,
        "num_attention_heads": decoder.num_heads,
        "num_hidden_layers": decoder.num_layers,
        "num_key_value_heads": decoder.num_kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": decoder.norm_eps,
        "rope_scaling": None,
        "rope_theta": decoder.rope_theta,
        "tie_word_embeddings": False,
        "use_cache": True,
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
