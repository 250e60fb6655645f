"""config.json of LLaMA, CLIP and the released format: refused in words, or read as transformers means it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from owl2_jax.convert.hf_config import is_tied, read_clip_config, read_hf_config, read_language_config
from owl2_jax.core.json_files import parse_json
from tests.fuzz.mutations import attempt, mutate, pick, text_of

GOLDEN = Path(__file__).parents[1] / "golden"
LLAMA = {
    "model_type": "llama", "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 128,
    "max_position_embeddings": 128, "num_attention_heads": 4, "num_hidden_layers": 2,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_scaling": None,
    "tie_word_embeddings": False, "vocab_size": 512, "use_cache": True, "torch_dtype": "float16",
    "pretraining_tp": 1, "attention_bias": False,
}  # fmt: skip
CLIP = {
    "model_type": "clip_vision_model", "hidden_act": "quick_gelu", "hidden_size": 32, "image_size": 28,
    "intermediate_size": 64, "layer_norm_eps": 1e-5, "num_attention_heads": 4, "num_channels": 3,
    "num_hidden_layers": 2, "patch_size": 14, "attention_dropout": 0.0, "projection_dim": 16,
}  # fmt: skip

_ROPES = (
    {"rope_theta": 5e5}, {"rope_type": "default", "rope_theta": 1e4}, {"type": "linear", "factor": 4.0},
    {"rope_type": "yarn", "factor": 2.0}, {"type": "default"}, {"factor": 4.0}, {"rope_theta": "1e4"},
    {"rope_type": "default", "type": "linear"}, {"partial_rotary_factor": 0.5}, {"rope_theta": None},
    {"full_attention": {"rope_theta": 1e4}}, {"rope_type": "llama3", "low_freq_factor": 1.0},
)  # fmt: skip
# What changes a decoder, with what means "no change" there; anything else must be refused.
_NEUTRAL_DECODER: dict[str, tuple] = {
    "hidden_act": ("silu", "swish"), "attention_bias": (False, None), "mlp_bias": (False, None),
    "sliding_window": (None,), "use_sliding_window": (False, None), "partial_rotary_factor": (1.0, None),
    "attention_dropout": (0.0, None), "quantization_config": (None, False, {}),
    "pruned_heads": (None, {}, []), "layer_types": (None, ["full_attention"] * 2),
    "add_cross_attention": (False, None), "rope_interleaved": (False, None),
    "per_layer_config": (None, False),
}  # fmt: skip
_NEUTRAL_ENCODER: dict[str, tuple] = {
    "hidden_act": ("quick_gelu",), "num_channels": (3,), "attention_dropout": (0.0, None),
    "dropout": (0.0, None), "quantization_config": (None, False, {}), "pruned_heads": (None, {}, []),
}  # fmt: skip
_NEUTRAL_RELEASED = {"use_cls_token": (True,), "use_post_layernorm": (True,)}
_NEUTRAL_ABSTRACTOR: dict[str, tuple] = {
    "add_v2t_pos_emb": (False, None), "use_cls_token": (True,), "attention_probs_dropout_prob": (0.0, None),
}  # fmt: skip
_LIKELY: dict[str, tuple] = {
    "rope_parameters": _ROPES, "rope_scaling": _ROPES, "rope_theta": (1e4, 5e5, 10000),
    "model_type": ("llama", "mistral", "clip", "qwen2"),
    "hidden_act": ("silu", "swish", "gelu", "quick_gelu"),
    "head_dim": (16, 8), "tie_word_embeddings": (True, False), "num_key_value_heads": (1, 2, 4),
    "hidden_size": (32, 64, 96), "layer_types": (["full_attention"] * 2, ["sliding_attention"] * 2),
    "sliding_window": (4096,), "grid_size": (4, 8, 32), "quantization_config": ({"bits": 4},),
}  # fmt: skip

_PLACES = [
    (), ("visual_config",), ("visual_config", "visual_model"), ("visual_config", "visual_abstractor"),
]  # fmt: skip


def cases(rng: np.random.Generator) -> Iterator[Callable[[], None]]:
    """Checks without an end, each of one file."""
    released = json.loads((GOLDEN / "A/hf/config.json").read_text())
    while True:
        yield partial(check, check_llama, _mutated(rng, LLAMA, (), _NEUTRAL_DECODER))
        yield partial(check, check_clip, _mutated(rng, CLIP, (), _NEUTRAL_ENCODER))
        place: tuple[str, ...] = pick(
            rng,
            [
                (),
                ("visual_config", "visual_model"),
                ("visual_config", "visual_abstractor"),
                ("visual_config",),
            ],
        )
        neutral = {**_NEUTRAL_DECODER, **_NEUTRAL_RELEASED, **_NEUTRAL_ABSTRACTOR}
        yield partial(check, check_released, _mutated(rng, released, place, neutral))


def _mutated(rng: np.random.Generator, values: dict, place: tuple[str, ...], names: Mapping) -> bytes:
    values = copy.deepcopy(values)
    node = values
    for name in place:
        node = node[name]
    added = [*names, "rope_theta", "rope_parameters", "rope_scaling", "head_dim", "tie_word_embeddings"]
    for _ in range(1 + int(rng.integers(3))):
        mutate(rng, node, added, _LIKELY)
    return text_of(rng, values)


def check(reader: Callable[[dict], None], text: bytes) -> None:
    """Reads one file; any error but an `Owl2Error`, or another meaning, is a finding."""
    values, _ = attempt(lambda: parse_json(text, "config.json"))
    if isinstance(values, dict):
        reader(values)


def check_llama(values: dict) -> None:
    read, refusal = attempt(lambda: (read_language_config(values), is_tied(values)))
    if refusal:
        return
    config, tied = read
    defaults = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
    if values["model_type"] == "mistral":
        defaults |= {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096}
    _compare_decoder(config, tied, {**defaults, **values})


def check_clip(values: dict) -> None:
    config, refusal = attempt(lambda: read_clip_config(values))
    if refusal:
        return
    defaults = {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "patch_size": 32, "image_size": 224, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu",
    }  # fmt: skip
    _compare_encoder(config, {**defaults, **values}, _NEUTRAL_ENCODER)


def check_released(values: dict) -> None:
    read, refusal = attempt(lambda: (read_hf_config(values), is_tied(values)))
    if refusal:
        return
    config, tied = read
    _compare_decoder(config.decoder, tied, {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, **values})
    vision, abstractor = (values["visual_config"][name] for name in ("visual_model", "visual_abstractor"))
    _compare_encoder(
        config.vision, {"layer_norm_eps": 1e-6, **vision}, {**_NEUTRAL_ENCODER, **_NEUTRAL_RELEASED}
    )
    abstractor = {"layer_norm_eps": 1e-6, "hidden_size": 1024, "encoder_hidden_size": 1024, **abstractor}
    ours = config.abstractor
    _equal(abstractor, {
        "num_hidden_layers": ours.num_layers, "num_attention_heads": ours.num_heads,
        "intermediate_size": ours.mlp_dim, "num_learnable_queries": ours.num_queries,
        "layer_norm_eps": ours.norm_eps, "hidden_size": config.vision.width,
        "encoder_hidden_size": config.vision.width,
    })  # fmt: skip
    assert (abstractor.get("grid_size") or 32) == config.vision.grid_size
    _neutral(abstractor, _NEUTRAL_ABSTRACTOR)


def _compare_decoder(config: Any, tied: bool, values: dict) -> None:
    if values.get("num_key_value_heads") is None:
        values["num_key_value_heads"] = values["num_attention_heads"]
    _equal(values, {
        "vocab_size": config.vocab_size, "hidden_size": config.width, "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads, "num_key_value_heads": config.num_kv_heads,
        "intermediate_size": config.mlp_dim, "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_length,
    })  # fmt: skip
    assert tied == bool(values.get("tie_word_embeddings"))
    assert (values.get("head_dim") or config.head_dim) == config.head_dim
    thetas, kinds = set(), set()
    if "rope_theta" in values:
        thetas.add(values["rope_theta"])
    for name in ("rope_parameters", "rope_scaling"):
        rope = values.get(name) or {}
        thetas |= {rope["rope_theta"]} if "rope_theta" in rope else set()
        kinds |= {rope[key] for key in ("rope_type", "type") if rope.get(key) is not None}
        assert rope.get("factor") in (None, 1.0)
        assert rope.get("partial_rotary_factor") in (None, 1.0)
    assert (thetas or {10000.0}) == {config.rope_theta}
    assert kinds <= {"default"}
    _neutral(values, _NEUTRAL_DECODER)


def _compare_encoder(config: Any, values: dict, neutral: Mapping[str, tuple]) -> None:
    _equal(values, {
        "hidden_size": config.width, "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads, "intermediate_size": config.mlp_dim,
        "patch_size": config.patch_size, "image_size": config.image_size, "layer_norm_eps": config.norm_eps,
    })  # fmt: skip
    _neutral(values, neutral)


def _equal(values: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    for name, value in ours.items():
        assert values[name] == value, name
        assert not isinstance(values[name], bool), name


def _neutral(values: Mapping[str, Any], neutral: Mapping[str, tuple]) -> None:
    """No setting that changes the model, and nothing switched on that nobody knows."""
    for name, value in values.items():
        if name in neutral:
            assert value in neutral[name], name
            assert isinstance(value, bool) == any(
                isinstance(n, bool) and n == value for n in neutral[name]
            ), name
        if name.startswith("setting_"):
            assert value is None or value is False or value in ("", [], {}), name
