"""adapter_config.json: refused in words, or plain LoRA on the modules that PEFT would adapt."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from owl2_jax.convert.peft_files import parse_adapter_config
from owl2_jax.core.json_files import parse_json
from tests.fuzz.mutations import attempt, mutate, text_of

BASE: dict[str, Any] = {
    "base_model_name_or_path": "x", "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
    "init_lora_weights": True, "layers_pattern": None, "layers_to_transform": None, "lora_alpha": 8,
    "lora_dropout": 0.05, "modules_to_save": None, "peft_type": "LORA", "r": 4, "revision": None,
    "target_modules": ["q_proj", "k_proj.multiway.0", "o_proj"], "task_type": "CAUSAL_LM",
}  # fmt: skip
# What makes another adapter of it, unless it is one of these.
NEUTRAL: dict[str, tuple] = {
    "bias": ("none", None), "fan_in_fan_out": (False, None),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal"), "use_dora": (False, None),
    "use_qalora": (False, None), "lora_bias": (False, None), "ensure_weight_tying": (False, None),
    **dict.fromkeys(
        ("rank_pattern", "alpha_pattern", "layer_replication", "megatron_config",
         "loftq_config", "eva_config", "corda_config", "arrow_config", "alora_invocation_tokens",
         "trainable_token_indices", "target_parameters", "lora_ga_config", "velora_config"),
        (None, {}, []),
    ),
}  # fmt: skip
LIKELY: dict[str, tuple] = {
    "target_modules": (["q_proj"], ["0", "1"], r".*\.1\..*_proj", "(q_proj", ["model.layers.1.mlp.up_proj"],
                       "all-linear", r"(.*)\.o_proj"),
    "exclude_modules": (["o_proj"], r".*layers\.0.*", "[", ["q_proj", "o_proj"]),
    "layers_to_transform": (0, 1, [0], [1, 2], [], [0, "1"], [10**9]),
    "layers_pattern": ("layers", ["h", "layers"], "h", [], "(layers)", "lay.*"),
    "init_lora_weights": ("pissa", "pissa_niter_4", "olora", "loftq", "eva", "corda", "gaussian"),
    "modules_to_save": (["lm_head"], ["self_attn"], ["up_proj", "0"], ["0.mlp"], [".*"], "lm_head"),
    "use_rslora": (True, False), "bias": ("all", "lora_only"), "r": (1, 8, 16.0), "lora_alpha": (16, 2.5),
    "layer_replication": ([[0, 2]],), "peft_type": ("LORA", "IA3", "ADALORA"), "lora_dropout": (0.1, 0, 1.0),
}  # fmt: skip
MODULES = [
    f"model.layers.{layer}.{part}"
    for layer in range(3)
    for part in ("self_attn.q_proj", "self_attn.k_proj.multiway.0", "self_attn.o_proj", "mlp.up_proj")
]


def cases(rng: np.random.Generator) -> Iterator[Callable[[], None]]:
    """Checks without an end, each of one file."""
    names = [*NEUTRAL, *LIKELY]
    while True:
        values = copy.deepcopy(BASE)
        for _ in range(1 + int(rng.integers(3))):
            mutate(rng, values, names, LIKELY)
        yield partial(check, text_of(rng, values))


def check(text: bytes) -> None:
    """Reads one file; any error but an `Owl2Error`, or another meaning, is a finding."""
    values, _ = attempt(lambda: parse_json(text, "adapter_config.json"))
    if not isinstance(values, dict):
        return
    settings, refusal = attempt(lambda: parse_adapter_config(values, "adapter_config.json"))
    if refusal:
        return
    assert values["peft_type"] == "LORA"
    rank, alpha = values["r"], values["lora_alpha"]
    assert type(rank) is int and settings.rank == rank  # noqa: PT018
    scale = alpha / rank**0.5 if values.get("use_rslora") else alpha / rank
    assert abs(settings.alpha / settings.rank - scale) <= 1e-12 * scale
    assert settings.dropout == values.get("lora_dropout", 0.0)
    for module in MODULES:
        assert settings.adapts(module) == peft_adapts(values, module), module
    for name, value in values.items():
        if name in NEUTRAL:
            assert any(value == n and type(value) is type(n) for n in NEUTRAL[name]), name
        if name.startswith("setting_"):
            assert value is None or value is False or value in ("", [], {}), name


def peft_adapts(values: dict, key: str) -> bool:
    """Whether PEFT puts an adapter at a module: its rules, written a second time."""
    targets, excluded = values["target_modules"], values.get("exclude_modules")
    saved = values.get("modules_to_save") or []
    if any(re.match(rf"(^|.*\.){name}($|\..*)", key) for name in saved):
        return False
    if excluded:
        ends = (
            [key] if isinstance(excluded, str) else [n for n in excluded if key == n or key.endswith("." + n)]
        )
        if re.fullmatch(excluded, key) if isinstance(excluded, str) else ends:
            return False
    if isinstance(targets, str):
        return re.fullmatch(targets, key) is not None
    if key in targets:
        return True
    found = any(key.endswith("." + name) for name in targets)
    layers = values.get("layers_to_transform")
    if not found or layers is None or layers == []:
        return found
    patterns = values.get("layers_pattern") or [r"[^.]*"]
    patterns = [patterns] if isinstance(patterns, str) else patterns
    places = [re.match(rf".*\.{pattern}\.(\d+)\.", key) for pattern in patterns]
    place = next((match for match in places if match), None)
    return place is not None and int(place[1]) in (layers if isinstance(layers, list) else [layers])
