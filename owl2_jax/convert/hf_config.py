"""`config.json` of the released formats, of LLaMA, Qwen and CLIP, to our configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from owl2_jax.convert import hf_keys
from owl2_jax.convert.formats import OWL2_1_TYPE, OWL2_TYPE
from owl2_jax.convert.key_rules import MOST_LAYERS, check_keys, group, named, number, shown, size, truth
from owl2_jax.convert.qwen_config import read_qwen_decoder
from owl2_jax.core.errors import Owl2Error
from owl2_jax.model.config import AbstractorConfig, DecoderConfig, Owl2Config, VisionConfig

_DEFAULT_TYPE: Final = "llama"
QWEN_TYPE: Final = "qwen"
# What transformers takes for settings that a file of this type leaves out.
_DECODER_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
}
_CLIP_DEFAULTS: Final = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "patch_size": 32, "image_size": 224, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu",
}  # fmt: skip
# What the original takes for sizes that its abstractor's group leaves out.
_ABSTRACTOR_SIZES: Final = {"hidden_size": 1024, "encoder_hidden_size": 1024, "grid_size": 32}
_CLIP_TYPES: Final = ("clip", "clip_vision_model")


def read_hf_config(values: Mapping[str, Any], where: str = "config.json") -> Owl2Config:
    """The model that a released `config.json` describes.

    Raises:
      Owl2Error: another model type, a setting that our model does not have or
        that is not known, a size that is missing or disagrees with another.
    """
    kind = values.get("model_type")
    if kind not in (OWL2_TYPE, OWL2_1_TYPE):
        raise Owl2Error(
            f"{where}: model_type is {shown(kind)}, expected {OWL2_TYPE!r} or {OWL2_1_TYPE!r}; "
            "start from plain LLaMA-2 or Qwen and CLIP with `owl2 convert init`"
        )
    check_keys(values, hf_keys.OWL2 if kind == OWL2_TYPE else hf_keys.OWL2_1, where)
    visual = group(values, "visual_config", where)
    check_keys(visual, hf_keys.VISUAL, f"{where} visual_config")
    vision = group(visual, "visual_model", f"{where} visual_config")
    abstractor = group(visual, "visual_abstractor", f"{where} visual_config")
    check_keys(vision, hf_keys.VISION, f"{where} visual_model")
    check_keys(abstractor, hf_keys.ABSTRACTOR, f"{where} visual_abstractor")
    parts = {
        "vision": _read_encoder(vision, f"{where} visual_model"),
        "abstractor": _read_abstractor(abstractor, f"{where} visual_abstractor"),
        "decoder": _read_decoder(values, where, _DECODER_DEFAULTS[_DEFAULT_TYPE])
        if kind == OWL2_TYPE
        else _read_qwen(values, where),
    }
    with named(where):
        config = Owl2Config(**parts)
    _check_agreement(config, abstractor, where)
    return config


def read_language_config(values: Mapping[str, Any], where: str = "config.json") -> DecoderConfig:
    """The decoder of a LLaMA-like or a Qwen `config.json`. Raises `Owl2Error` as `read_hf_config` does.

    Qwen's gets the module of mPLUG-Owl2.1, LLaMA's that of mPLUG-Owl2.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in (*_DECODER_DEFAULTS, QWEN_TYPE):
        raise Owl2Error(
            f"{where}: model_type is {shown(kind)}, expected one of "
            f"{', '.join((*_DECODER_DEFAULTS, QWEN_TYPE))}"
        )
    if kind != QWEN_TYPE:
        check_keys(values, hf_keys.LLAMA, where)
        return _read_decoder(values, where, _DECODER_DEFAULTS[kind])
    check_keys(values, hf_keys.QWEN, where)
    if truth(values, "multiway", where):
        raise Owl2Error(f"{where}: multiway is True; expected a plain Qwen, with one projection")
    return dataclasses.replace(_read_qwen(values, where), adaptive="qkv")


def read_clip_config(values: Mapping[str, Any], where: str = "config.json") -> VisionConfig:
    """The image encoder of a CLIP `config.json`. Raises `Owl2Error` as `read_hf_config` does.

    A whole CLIP may describe its encoder twice; both must say the same.
    """
    kind = values.get("model_type")
    if kind not in _CLIP_TYPES:
        raise Owl2Error(f"{where}: model_type is {shown(kind)}, expected one of {', '.join(_CLIP_TYPES)}")
    if kind == "clip_vision_model":
        return _read_clip_encoder(values, where)
    check_keys(values, hf_keys.CLIP, where)
    names = [
        name for name in ("vision_config", "vision_config_dict")
        if name == "vision_config" or values.get(name) is not None
    ]  # fmt: skip
    first, *others = [_read_clip_encoder(group(values, name, where), f"{where} {name}") for name in names]
    if any(other != first for other in others):
        raise Owl2Error(f"{where}: {' and '.join(names)} describe different encoders; make them equal")
    return first


def _read_clip_encoder(values: Mapping[str, Any], where: str) -> VisionConfig:
    check_keys(values, hf_keys.CLIP_VISION, where)
    return _read_encoder({**_CLIP_DEFAULTS, **values}, where)


def is_tied(values: Mapping[str, Any], where: str = "config.json") -> bool:
    """Whether the head of a decoder is its embedding."""
    return truth(values, "tie_word_embeddings", where)


def _read_qwen(values: Mapping[str, Any], where: str) -> DecoderConfig:
    is_tied(values, where)
    return read_qwen_decoder(values, where)


def _read_decoder(values: Mapping[str, Any], where: str, defaults: Mapping[str, Any]) -> DecoderConfig:
    values = {**defaults, **values}
    heads = size(values, "num_attention_heads", where)
    if values.get("num_key_value_heads") is None:
        values["num_key_value_heads"] = heads
    is_tied(values, where)
    sizes: dict[str, Any] = {
        "vocab_size": size(values, "vocab_size", where),
        "width": size(values, "hidden_size", where),
        "num_layers": size(values, "num_hidden_layers", where, most=MOST_LAYERS),
        "num_heads": heads,
        "num_kv_heads": size(values, "num_key_value_heads", where),
        "mlp_dim": size(values, "intermediate_size", where),
        "rope_theta": _rope_theta(values, where),
        "norm_eps": number(values, "rms_norm_eps", where, 1e-6),
        "max_length": size(values, "max_position_embeddings", where),
    }
    with named(where):
        config = DecoderConfig(**sizes)
    _check_attention(values, config, where)
    return config


def _rope_theta(values: Mapping[str, Any], where: str) -> float:
    """The base of the rotary angles, which three places may state; any scaling is refused."""
    stated = {}
    if "rope_theta" in values:
        stated["rope_theta"] = number(values, "rope_theta", where)
    for name in ("rope_parameters", "rope_scaling"):
        if values.get(name) is None:
            continue
        settings = group(values, name, where)
        check_keys(settings, hf_keys.ROPE, f"{where} {name}")
        if "rope_theta" in settings:
            stated[f"{name}.rope_theta"] = number(settings, "rope_theta", f"{where} {name}")
    if len(set(stated.values())) > 1:
        said = ", ".join(f"{name} is {value}" for name, value in stated.items())
        raise Owl2Error(
            f"{where} contradicts itself: {said}; keep the one that the weights were trained with"
        )
    return next(iter(stated.values()), 10000.0)


def _check_attention(values: Mapping[str, Any], config: DecoderConfig, where: str) -> None:
    """Head width, windows and kinds of layers, which our model does not choose."""
    head_dim = values.get("head_dim")
    if head_dim is not None and (isinstance(head_dim, bool) or head_dim != config.head_dim):
        raise Owl2Error(
            f"{where}: head_dim is {shown(head_dim)}; only {config.head_dim} "
            "(hidden_size / num_attention_heads) is supported"
        )
    window = values.get("sliding_window")
    if window is not None:
        raise Owl2Error(
            f"{where}: sliding_window is {shown(window)}; only None is supported, as every token here sees "
            "all tokens before it (a mistral file that leaves it out means 4096)"
        )
    kinds = values.get("layer_types")
    if kinds is not None and kinds != ["full_attention"] * config.num_layers:
        raise Owl2Error(f"{where}: layer_types is {shown(kinds)}; only full_attention is supported")


def _read_encoder(values: Mapping[str, Any], where: str) -> VisionConfig:
    sizes: dict[str, Any] = {
        "width": size(values, "hidden_size", where),
        "num_layers": size(values, "num_hidden_layers", where, most=MOST_LAYERS),
        "num_heads": size(values, "num_attention_heads", where),
        "mlp_dim": size(values, "intermediate_size", where),
        "patch_size": size(values, "patch_size", where),
        "image_size": size(values, "image_size", where),
        "norm_eps": number(values, "layer_norm_eps", where, 1e-6),
    }
    with named(where):
        return VisionConfig(**sizes)


def _read_abstractor(values: Mapping[str, Any], where: str) -> AbstractorConfig:
    sizes: dict[str, Any] = {
        "num_layers": size(values, "num_hidden_layers", where, most=MOST_LAYERS),
        "num_heads": size(values, "num_attention_heads", where),
        "mlp_dim": size(values, "intermediate_size", where),
        "num_queries": size(values, "num_learnable_queries", where),
        "norm_eps": number(values, "layer_norm_eps", where, 1e-6),
    }
    with named(where):
        return AbstractorConfig(**sizes)


def _check_agreement(config: Owl2Config, abstractor: Mapping[str, Any], where: str) -> None:
    """Sizes that the file states twice."""
    vision = config.vision
    wanted = {
        "hidden_size": (vision.width, "visual_model.hidden_size"),
        "encoder_hidden_size": (vision.width, "visual_model.hidden_size"),
        "grid_size": (vision.grid_size, "visual_model.image_size / patch_size"),
    }
    for name, (expected, source) in wanted.items():
        found = abstractor.get(name, _ABSTRACTOR_SIZES[name])
        if isinstance(found, bool) or found != expected:
            left_out = "" if name in abstractor else " (the original's value, as it is left out)"
            raise Owl2Error(
                f"{where}: visual_abstractor.{name} is {shown(found)}{left_out}, but {source} is {expected}; "
                "make them equal"
            )
