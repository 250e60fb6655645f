"""The two released formats, mPLUG-Owl2's and mPLUG-Owl2.1's, and which of them holds a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from owl2_jax.convert.ops import Shape
from owl2_jax.convert.qwen_weight_names import OWL2_1, OWL2_1_PLAIN
from owl2_jax.convert.weight_names import OWL2, Rule
from owl2_jax.core.errors import Owl2Error
from owl2_jax.model.config import DecoderConfig, Owl2Config

OWL2_TYPE: Final = "mplug_owl2"
OWL2_1_TYPE: Final = "mplug_owl2_1"


@dataclass(frozen=True)
class Format:
    """How a kind of released checkpoint is written.

    Attributes:
      model_type: of its config.json.
      architecture: likewise.
      root: what the names of everything but the head begin with.
      rules: names and operations of all parameters.
      heads_first: its cache has heads before positions.
    """

    model_type: str
    architecture: str
    root: str
    rules: tuple[Rule, ...]
    heads_first: bool = True


_OWL2: Final = Format(OWL2_TYPE, "MPLUGOwl2LlamaForCausalLM", "model", OWL2)
_OWL2_1: Final = Format(OWL2_1_TYPE, "MPLUGOwl2QWenForCausalLM", "transformer", OWL2_1, False)


def format_of(config: Owl2Config) -> Format:
    """The format that holds a model: with biases in the attention mPLUG-Owl2.1's, without mPLUG-Owl2's.

    Raises:
      Owl2Error: the decoder has something that its format has no place for.
    """
    decoder = config.decoder
    found = _OWL2_1 if decoder.qkv_bias else _OWL2
    lacking = _qwen_lacks(decoder) if decoder.qkv_bias else _llama_lacks(decoder)
    if lacking:
        raise Owl2Error(
            f"the released format {found.model_type} has no place for model.decoder.{lacking[0]} "
            f"{getattr(decoder, lacking[0])!r}; expected {lacking[1]}"
        )
    if found is _OWL2_1 and not decoder.adapted_projections:
        return replace(found, rules=OWL2_1_PLAIN)
    return found


def _llama_lacks(decoder: DecoderConfig) -> tuple[str, str] | None:
    """(field, what it would have to be) of the first thing that the format cannot say."""
    if decoder.adapts("q"):
        return "adaptive", "full or a part of it, without queries (`owl2 convert resize --adaptive=full`)"
    for rule in ("dynamic_ntk", "logn"):
        if getattr(decoder, rule):
            return rule, "False"
    return None


def _qwen_lacks(decoder: DecoderConfig) -> tuple[str, str] | None:
    if decoder.adapts("norms"):
        return "adaptive", "qkv or a part of it, without norms (`owl2 convert resize --adaptive=qkv`)"
    if decoder.num_kv_heads != decoder.num_heads:
        return "num_kv_heads", f"{decoder.num_heads}, as many as num_heads"
    return None


def rules_for(config: Owl2Config, shapes: Mapping[str, Shape]) -> list[Rule]:
    """The rules of a model's format; a copy for images that it lacks is its one for text."""
    return [
        rule if rule.ours in shapes else replace(rule, ours=text_twin(rule.ours))
        for rule in format_of(config).rules
    ]


def text_twin(path: str) -> str:
    """The leaf of text beside a leaf of images: what the image branch starts as."""
    return path.replace("/q_image/", "/q/").replace("_image/", "_text/")
