"""Sizes and numerical choices of the model, as frozen dataclasses.

The defaults are those of the released checkpoint (mPLUG-Owl2, LLaMA-2-7B).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from owl2_jax.core import fields
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.ranges import PartLost, Positive, at_least, between
from owl2_jax.core.texts import Name

Dtype = Literal["float32", "bfloat16"]
# Names of `owl2_jax.model.remat.POLICIES` and `owl2_jax.model.attention_kernels.KERNELS`, which need JAX.
Remat = Literal["none", "dots", "attention_mlp", "attention", "context", "full"]
Attention = Literal["auto", "xla", "splash", "cudnn"]
# Far beyond any model, and small enough that its arrays can be counted.
Size = Annotated[int, at_least(1, most=2**20)]
Length = Annotated[int, at_least(1, most=2**24)]
Layers = Annotated[int, at_least(1, most=2**12)]
_MOST_PATCHES: Final = 2**18


def _require_divisible(name: str, value: int, divisor_name: str, divisor: int) -> None:
    if divisor < 1 or value % divisor:
        raise Owl2Error(f"{name} {value} must be a multiple of {divisor_name} {divisor}")


@dataclass(frozen=True)
class VisionConfig:
    """CLIP ViT encoder. Defaults: ViT-L/14 at 448 pixels."""

    width: Size = 1024
    num_layers: Layers = 24
    num_heads: Size = 16
    mlp_dim: Size = 4096
    patch_size: Size = 14
    image_size: Size = 448  # pixels
    norm_eps: Positive = 1e-6

    def __post_init__(self) -> None:
        fields.check_values(self, "model.vision")
        _require_divisible("model.vision.width", self.width, "vision.num_heads", self.num_heads)
        _require_divisible("model.vision.image_size", self.image_size, "vision.patch_size", self.patch_size)
        if self.num_patches > _MOST_PATCHES:
            raise Owl2Error(
                f"model.vision.image_size {self.image_size} has {self.num_patches} patches of "
                f"{self.patch_size} pixels; expected at most {_MOST_PATCHES}"
            )

    @property
    def grid_size(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patches of an image, the class token not counted."""
        return self.grid_size**2

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads


@dataclass(frozen=True)
class AbstractorConfig:
    """Query-based visual abstractor; its width is the vision width."""

    num_layers: Layers = 6
    num_heads: Size = 16
    mlp_dim: Size = 2816
    num_queries: Size = 64
    norm_eps: Positive = 1e-6  # of the norm inside the MLP; the three others are fixed at 1e-5

    def __post_init__(self) -> None:
        fields.check_values(self, "model.abstractor")


@dataclass(frozen=True)
class DecoderConfig:
    """LLaMA-2 decoder with the modality-adaptive module.

    `adaptive` chooses what has a copy per modality: "full" (norms, keys and
    values: the paper), "norms", "kv", or "none" (a plain LLaMA-2).
    """

    vocab_size: Length = 32000
    width: Size = 4096
    num_layers: Layers = 32
    num_heads: Size = 32
    num_kv_heads: Size = 32
    mlp_dim: Size = 11008
    rope_theta: Annotated[float, between(1, 1e30)] = 10000.0
    norm_eps: Positive = 1e-5
    max_length: Length = 2048
    adaptive: Literal["full", "norms", "kv", "none"] = "full"

    def __post_init__(self) -> None:
        fields.check_values(self, "model.decoder")
        _require_divisible("model.decoder.width", self.width, "decoder.num_heads", self.num_heads)
        _require_divisible(
            "model.decoder.num_heads", self.num_heads, "decoder.num_kv_heads", self.num_kv_heads
        )
        _require_divisible("model.decoder head_dim", self.head_dim, "the rotary pair", 2)

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads

    @property
    def adapts_norms(self) -> bool:
        return self.adaptive in ("full", "norms")

    @property
    def adapts_kv(self) -> bool:
        return self.adaptive in ("full", "kv")


# Linear maps of a decoder layer, by the names of their parameters.
LORA_TARGETS: Final = ("q", "k_text", "k_image", "v_text", "v_image", "out", "gate", "up", "down")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters beside chosen linear maps of the decoder (Hu et al. 2021).

    Attributes:
      rank: r, width of an adapter.
      alpha: an adapter's output is scaled by alpha / rank.
      dropout: share of an adapter's inputs that a training step drops.
      targets: which maps have one, of `LORA_TARGETS`.
      base: how the maps of the decoder's layers are held: "stored" as
        `param_dtype` says, "int8" as integers with a scale per output, which
        cannot train (QLoRA, with 8 bits).
    """

    rank: Size = 128
    alpha: Positive = 256.0
    dropout: PartLost = 0.0
    targets: tuple[Name, ...] = LORA_TARGETS
    base: Literal["stored", "int8"] = "stored"

    def __post_init__(self) -> None:
        fields.check_values(self, "model.lora")
        if not self.targets:
            raise Owl2Error("model.lora.targets is empty; name a map, or leave lora out")
        for target in self.targets:
            if target not in LORA_TARGETS:
                raise unknown_name("LoRA target", target, LORA_TARGETS)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class Owl2Config:
    """The whole model.

    Attributes:
      dtype: of activations and matrix products; norms, softmax and logits are
        float32 in any case.
      param_dtype: of stored parameters.
      remat: what the backward pass computes again; a name of
        `owl2_jax.model.remat.POLICIES`.
      attention: kernel of the decoder's full-sequence attention; a name of
        `owl2_jax.model.attention_kernels.KERNELS`; "auto" for the device's best.
      image_kv: "gather" projects image keys and values only where an image
        stands; "select" projects everywhere and selects (the reference).
      scan_unroll: decoder and vision layers per iteration of the layer scan.
      lora: adapters beside the decoder's linear maps; None for none.
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    abstractor: AbstractorConfig = field(default_factory=AbstractorConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    dtype: Dtype = "float32"
    param_dtype: Dtype = "float32"
    remat: Remat = "none"
    attention: Attention = "auto"
    image_kv: Literal["gather", "select"] = "gather"
    scan_unroll: Layers = 1
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        fields.check_values(self, "model")
        if self.lora is not None and not self.decoder.adapts_kv:
            missing = [target for target in self.lora.targets if target.endswith("_image")]
            if missing:
                raise Owl2Error(
                    f"model.lora.targets {', '.join(missing)} do not exist with decoder.adaptive "
                    f"{self.decoder.adaptive!r}; leave them out"
                )
        width = self.vision.width
        _require_divisible("model.vision.width", width, "abstractor.num_heads", self.abstractor.num_heads)
        _require_divisible("model.vision.width", width, "the sin-cos position table", 4)

    @property
    def tokens_per_image(self) -> int:
        """Decoder tokens of an image: the queries and the end token."""
        return self.abstractor.num_queries + 1

    def to_dict(self) -> dict[str, Any]:
        return fields.to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Owl2Config:
        """Raises `Owl2Error` for unknown fields, wrong types and sizes that do not fit."""
        return fields.from_dict(cls, values, "model")

    def replace(self, **changes: Any) -> Owl2Config:
        """A copy with changed fields; dotted names reach inside ("vision.image_size")."""
        values = self.to_dict()
        for name, value in changes.items():
            *parents, last = name.replace("__", ".").split(".")
            node = values
            for parent in parents:
                node = node[parent]
            node[last] = fields.to_dict(value) if dataclasses.is_dataclass(value) else value
        return Owl2Config.from_dict(values)
