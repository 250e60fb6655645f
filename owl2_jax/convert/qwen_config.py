"""The decoder part of Qwen's and mPLUG-Owl2.1's `config.json`, in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from owl2_jax.convert.key_rules import MOST_LAYERS, named, number, shown, size, truth
from owl2_jax.core.errors import Owl2Error
from owl2_jax.model.config import DecoderConfig

# What the original takes for settings that a file leaves out.
_DEFAULTS: Final[dict[str, Any]] = {
    "vocab_size": 151936, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "kv_channels": 128, "intermediate_size": 22016, "layer_norm_epsilon": 1e-6,
    "max_position_embeddings": 8192, "rotary_emb_base": 10000,
}  # fmt: skip


def read_qwen_decoder(values: Mapping[str, Any], where: str) -> DecoderConfig:
    """The decoder that a file describes, whose keys are known to be ours.

    Raises:
      Owl2Error: a size that is missing, out of range or disagrees with another.
    """
    values = {**_DEFAULTS, **values}
    inner = size(values, "intermediate_size", where)
    if inner % 2:
        raise Owl2Error(f"{where}: intermediate_size is {inner}; expected twice the width of the MLP")
    rules = {
        "dynamic_ntk": truth(values, "use_dynamic_ntk", where, default=True),
        "logn": truth(values, "use_logn_attn", where, default=True),
    }
    sizes: dict[str, Any] = {
        "vocab_size": size(values, "vocab_size", where),
        "width": size(values, "hidden_size", where),
        "num_layers": size(values, "num_hidden_layers", where, most=MOST_LAYERS),
        "num_heads": size(values, "num_attention_heads", where),
        "num_kv_heads": size(values, "num_attention_heads", where),
        "mlp_dim": inner // 2,
        "rope_theta": number(values, "rotary_emb_base", where),
        "norm_eps": number(values, "layer_norm_epsilon", where),
        "max_length": size(values, "max_position_embeddings", where),
        "adaptive": "qkv" if truth(values, "multiway", where) else "none",
        "qkv_bias": True,
        "trained_length": _trained_length(values, rules, where),
        **rules,
    }
    with named(where):
        config = DecoderConfig(**sizes)
    heads = size(values, "kv_channels", where)
    if heads != config.head_dim:
        raise Owl2Error(
            f"{where}: kv_channels is {heads}; only {config.head_dim} (hidden_size / num_attention_heads) "
            "is supported"
        )
    return config


def _trained_length(values: Mapping[str, Any], rules: Mapping[str, bool], where: str) -> int | None:
    """seq_length, which has no default and must be there where a rule hangs on it."""
    if values.get("seq_length") is None:
        wanted = [name for name, on in rules.items() if on]
        if wanted:
            raise Owl2Error(
                f"{where}: seq_length is {shown(values.get('seq_length'))}, expected the length that the "
                "model was trained at; dynamic NTK and log-n begin beyond it (use_dynamic_ntk, use_logn_attn)"
            )
        return None
    return size(values, "seq_length", where)


def write_qwen_decoder(decoder: DecoderConfig, torch_dtype: str) -> dict[str, Any]:
    """What the original writes for a decoder, and for the width that it computes in."""
    values: dict[str, Any] = {
        "attn_dropout_prob": 0.0,
        "bf16": torch_dtype == "bfloat16",
        "emb_dropout_prob": 0.0,
        "fp16": torch_dtype == "float16",
        "fp32": torch_dtype == "float32",
        "hidden_size": decoder.width,
        "initializer_range": 0.02,
        "intermediate_size": 2 * decoder.mlp_dim,
        "kv_channels": decoder.head_dim,
        "layer_norm_epsilon": decoder.norm_eps,
        "max_position_embeddings": decoder.max_length,
        "multiway": bool(decoder.adapted_projections),
        "no_bias": True,
        "num_attention_heads": decoder.num_heads,
        "num_hidden_layers": decoder.num_layers,
        "rotary_emb_base": _whole(decoder.rope_theta),
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "softmax_in_fp32": False,
        "tie_word_embeddings": False,
        "use_cache": True,
        "use_cache_kernel": False,
        "use_cache_quantization": False,
        "use_dynamic_ntk": decoder.dynamic_ntk,
        "use_flash_attn": False,
        "use_logn_attn": decoder.logn,
        "vocab_size": decoder.vocab_size,
    }
    if decoder.trained_length is not None:
        values["seq_length"] = decoder.trained_length
    return values


def _whole(value: float) -> float | int:
    """A number as the original has it: without a point where it needs none."""
    return int(value) if value.is_integer() else value
