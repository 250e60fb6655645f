"""The table of names of `weight_names`, for Qwen's decoder and mPLUG-Owl2.1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from owl2_jax.convert.ops import Linear
from owl2_jax.convert.weight_names import FLAT, HEAD, LINEAR, SAME, Rule, abstractor_rules, vision_rules

_ROOT: Final = "transformer"
_LAYER: Final = _ROOT + ".h.{i}"
# Rows of the fused projection from top to bottom; by modality as our leaves are named.
_PARTS: Final = {"text": ("q", "k_text", "v_text"), "image": ("q_image", "k_image", "v_image")}


def _fused(branch: str, theirs: str) -> list[Rule]:
    """One projection of theirs that is three of ours, with their biases."""
    return [
        Rule(f"decoder/layers/attention/{name}/{leaf}", f"{_LAYER}.attn.{theirs}.{suffix}", op, part)
        for leaf, suffix, op in (("kernel", "weight", LINEAR), ("bias", "bias", FLAT))
        for part, name in enumerate(_PARTS[branch])
    ]


def _decoder(branches: Sequence[tuple[str, str]]) -> list[Rule]:
    """Rows of the decoder; `branches` pairs a branch of ours with their name of its projection."""
    ours = "decoder/layers"
    return [
        Rule("decoder/embedding", f"{_ROOT}.wte.weight", SAME),
        Rule(f"{ours}/attention_norm_text/scale", f"{_LAYER}.ln_1.weight", SAME),
        *(rule for branch, theirs in branches for rule in _fused(branch, theirs)),
        Rule(f"{ours}/attention/out/kernel", f"{_LAYER}.attn.c_proj.weight", Linear(2)),
        Rule(f"{ours}/mlp_norm_text/scale", f"{_LAYER}.ln_2.weight", SAME),
        Rule(f"{ours}/mlp/up/kernel", f"{_LAYER}.mlp.w1.weight", LINEAR),
        Rule(f"{ours}/mlp/gate/kernel", f"{_LAYER}.mlp.w2.weight", LINEAR),  # the second is the gate
        Rule(f"{ours}/mlp/down/kernel", f"{_LAYER}.mlp.c_proj.weight", LINEAR),
        Rule("decoder/final_norm/scale", f"{_ROOT}.ln_f.weight", SAME),
    ]


_SEES: Final = (*vision_rules(_ROOT), *abstractor_rules(_ROOT), HEAD)
# The released format of mPLUG-Owl2.1, and the same with a decoder that has no module.
OWL2_1: Final = (
    *_decoder([("text", "c_attn.multiway.0"), ("image", "c_attn.multiway.1")]), *_SEES,
)  # fmt: skip
OWL2_1_PLAIN: Final = (*_decoder([("text", "c_attn")]), *_SEES)
# Qwen has one projection; both branches read it.
QWEN: Final = (*_decoder([("text", "c_attn"), ("image", "c_attn")]), HEAD)
