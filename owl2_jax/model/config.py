"""Sizes and numerical choices of the model, as frozen dataclasses.

The defaults are those of the released checkpoint (mPLUG-Owl2, LLaMA-2-7B).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal

from owl2_jax.core import fields
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.ranges import PartLost, Positive, at_least, between
from owl2_jax.core.texts import Name
from owl2_jax.model import adaptive

Dtype = Literal["float32", "bfloat16"]
# Names of `owl2_jax.model.remat.POLICIES` and `owl2_jax.model.attention_kernels.KERNELS`, which need JAX.
Remat = Literal["none", "products", "dots", "attention_mlp", "attention", "context", "full"]
Attention = Literal["auto", "xla", "flash", "splash", "cudnn"]
SPLASH_BLOCK: Final = 512
# Far beyond any model, and small enough that its arrays can be counted.
Size = Annotated[int, at_least(1, most=2**20)]
Length = Annotated[int, at_least(1, most=2**24)]
Layers = Annotated[int, at_least(1, most=2**12)]
TrainedLength = Annotated[int, at_least(2, most=2**24)]  # of 1, no logarithm could be a divisor
_MOST_PATCHES: Final = 2**18


def _require_divisible(name: str, value: int, divisor_name: str, divisor: int) -> None:
    if divisor < 1 or value % divisor:
        raise Owl2Error(f"{name} {value} must be a multiple of {divisor_name} {divisor}")


@dataclass(frozen=True)
class VisionConfig:
    """CLIP ViT encoder. Defaults: ViT-L/14 at 448 pixels.

    Attributes:
      width: E, channels of a patch.
      num_layers: transformer blocks.
      num_heads: attention heads; they divide the width.
      mlp_dim: channels inside the MLP.
      patch_size: side of a patch in pixels; it divides `image_size`.
      image_size: side of an image in pixels.
      norm_eps: of all LayerNorms.
    """

    width: Size = 1024
    num_layers: Layers = 24
    num_heads: Size = 16
    mlp_dim: Size = 4096
    patch_size: Size = 14
    image_size: Size = 448
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
        """Width of a head."""
        return self.width // self.num_heads


@dataclass(frozen=True)
class AbstractorConfig:
    """Query-based visual abstractor; its width is the vision width.

    Attributes:
      num_layers: layers of cross-attention.
      num_heads: attention heads; they divide the vision width.
      mlp_dim: channels inside the SwiGLU.
      num_queries: Q, learnt queries; an image takes Q + 1 positions of the decoder.
      norm_eps: of the norm inside the MLP; the three others are fixed at 1e-5.
    """

    num_layers: Layers = 6
    num_heads: Size = 16
    mlp_dim: Size = 2816
    num_queries: Size = 64
    norm_eps: Positive = 1e-6

    def __post_init__(self) -> None:
        fields.check_values(self, "model.abstractor")


@dataclass(frozen=True)
class DecoderConfig:
    """Decoder with the modality-adaptive module. Defaults: that of mPLUG-Owl2, a LLaMA-2-7B.

    Attributes:
      vocab_size: rows of the embedding and outputs of the head.
      width: D, channels of a position.
      num_layers: transformer layers.
      num_heads: N, query heads; they divide the width.
      num_kv_heads: K, heads of keys and values; they divide `num_heads`.
      mlp_dim: channels inside the SwiGLU.
      rope_theta: base of the rotary positions.
      norm_eps: of all RMSNorms.
      adaptive: what has a copy per modality, a set of `model.adaptive`: "full"
        (norms, keys and values: mPLUG-Owl2), "qkv" (queries, keys and values:
        mPLUG-Owl2.1), "norms", "kv", "q", "all", "none" (a plain decoder), or
        parts with "+" between them ("norms+q").
      qkv_bias: queries, keys and values have a bias, one per copy; from
        nothing, heads then start with near tokens.
      max_length: most positions of a sequence.
      trained_length: positions beyond which the next two apply, in evaluation
        alone (`model.rotary`); None when neither is on.
      dynamic_ntk: longer prompts have a larger rotary base.
      logn: later queries are larger.
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
    adaptive: Name = "full"
    qkv_bias: bool = False
    trained_length: TrainedLength | None = None
    dynamic_ntk: bool = False
    logn: bool = False

    def __post_init__(self) -> None:
        fields.check_values(self, "model.decoder")
        # Equal sets are spelt alike, so that equal models have equal configs.
        object.__setattr__(self, "adaptive", adaptive.canonical(self.adaptive))
        _require_divisible("model.decoder.width", self.width, "decoder.num_heads", self.num_heads)
        _require_divisible(
            "model.decoder.num_heads", self.num_heads, "decoder.num_kv_heads", self.num_kv_heads
        )
        _require_divisible("model.decoder head_dim", self.head_dim, "the rotary pair", 2)
        self._check_rules_of_length()

    def _check_rules_of_length(self) -> None:
        rules = [name for name in ("dynamic_ntk", "logn") if getattr(self, name)]
        if rules and self.trained_length is None:
            raise Owl2Error(
                f"model.decoder.{rules[0]} needs model.decoder.trained_length, the positions beyond which it "
                "applies, found None"
            )
        if self.dynamic_ntk and self.head_dim < 4:
            raise Owl2Error(
                f"model.decoder.dynamic_ntk needs heads of at least 4, found a head_dim of {self.head_dim}"
            )

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.width // self.num_heads

    def adapts(self, part: str) -> bool:
        """Whether a part of `adaptive.PARTS` has a copy per modality."""
        return part in adaptive.parts(self.adaptive)

    @property
    def adapted_projections(self) -> tuple[str, ...]:
        """Which of "q", "k" and "v" have a copy for images."""
        return tuple(part for part in ("q", "k", "v") if self.adapts(part))


# Linear maps of a decoder layer, by the names of their parameters.
LINEAR_MAPS: Final = (
    "q", "q_image", "k_text", "k_image", "v_text", "v_image", "out", "gate", "up", "down",
)  # fmt: skip
# Queries, keys and values behind one adapter, as a checkpoint with one fused projection has them.
FUSED_TARGETS: Final[dict[str, tuple[str, ...]]] = {
    "qkv_text": ("q", "k_text", "v_text"),
    "qkv_image": ("q_image", "k_image", "v_image"),
}
LORA_TARGETS: Final = (*LINEAR_MAPS[:6], *FUSED_TARGETS, *LINEAR_MAPS[6:])


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters beside chosen linear maps of the decoder (Hu et al. 2021).

    Attributes:
      rank: r, width of an adapter.
      alpha: an adapter's output is scaled by alpha / rank.
      dropout: share of an adapter's inputs that a training step drops.
      targets: which maps have one, of `LORA_TARGETS`; those of mPLUG-Owl2 by default.
      base: how the maps of the decoder's layers are held: "stored" as
        `param_dtype` says, "int8" as integers with a scale per output, which
        cannot train (QLoRA, with 8 bits).
    """

    rank: Size = 128
    alpha: Positive = 256.0
    dropout: PartLost = 0.0
    targets: tuple[Name, ...] = tuple(name for name in LINEAR_MAPS if name != "q_image")
    base: Literal["stored", "int8"] = "stored"

    def __post_init__(self) -> None:
        fields.check_values(self, "model.lora")
        if not self.targets:
            raise Owl2Error("model.lora.targets is empty; name a map, or leave lora out")
        for target in self.targets:
            if target not in LORA_TARGETS:
                raise unknown_name("LoRA target", target, LORA_TARGETS)
        for fused, maps in FUSED_TARGETS.items():
            twice = [name for name in maps if fused in self.targets and name in self.targets]
            if twice:
                raise Owl2Error(
                    f"model.lora.targets has {fused} and {', '.join(twice)}, which {fused} adapts already; "
                    "leave one of them out"
                )

    @property
    def scale(self) -> float:
        """What an adapter's product is multiplied by."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class Owl2Config:
    """The whole model.

    Attributes:
      vision: the encoder of images.
      abstractor: what makes tokens of an image.
      decoder: the language model.
      dtype: of activations and matrix products; norms, softmax and logits are
        float32 in any case.
      param_dtype: of stored parameters.
      remat: what the backward pass computes again; a name of
        `owl2_jax.model.remat.POLICIES`.
      attention: kernel of the decoder's full-sequence attention; a name of
        `owl2_jax.model.attention_kernels.KERNELS`; "auto" for the device's best. Where it is
        flash or splash, the vision encoder's is flash, if its heads fill registers.
      image_kv: "gather" computes the image copies of queries, keys and values
        only where an image stands; so does "product", which takes these tokens and puts them
        back by products, faster on a TPU with several rows per chip; "select" computes them
        everywhere and selects (the reference).
      splash_block: rows and columns of a tile of the decoder's splash attention, where it divides the row.
      scan_unroll: decoder and vision layers per iteration of the layer scan.
      lora: adapters beside the decoder's linear maps; None for none.
    """

    # It said how a TPU computes, and nothing of the model.
    OLD_NAMES: ClassVar[fields.OldNames] = {"mlp_apart": lambda _: {}}

    vision: VisionConfig = field(default_factory=VisionConfig)
    abstractor: AbstractorConfig = field(default_factory=AbstractorConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    dtype: Dtype = "float32"
    param_dtype: Dtype = "float32"
    remat: Remat = "none"
    attention: Attention = "auto"
    image_kv: Literal["gather", "product", "select"] = "gather"
    splash_block: Annotated[int, at_least(128, most=2**14)] = SPLASH_BLOCK
    scan_unroll: Layers = 1
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        fields.check_values(self, "model")
        if self.lora is not None:
            self._check_targets(self.lora)
        _require_divisible("model.splash_block", self.splash_block, "a register's width of", 128)
        width = self.vision.width
        _require_divisible("model.vision.width", width, "abstractor.num_heads", self.abstractor.num_heads)
        _require_divisible("model.vision.width", width, "the sin-cos position table", 4)

    def _check_targets(self, lora: LoraConfig) -> None:
        """Raises `Owl2Error` for adapters of maps that the module does not have."""
        there = {f"{part}_image" for part in self.decoder.adapted_projections}
        missing = [
            target
            for target in lora.targets
            if target.endswith("_image") and not there.issuperset(FUSED_TARGETS.get(target, (target,)))
        ]
        if missing:
            raise Owl2Error(
                f"model.lora.targets {', '.join(missing)} do not exist with decoder.adaptive "
                f"{self.decoder.adaptive!r}; leave them out"
            )

    @property
    def tokens_per_image(self) -> int:
        """Decoder tokens of an image: the queries and the end token."""
        return self.abstractor.num_queries + 1

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, which `from_dict` reads."""
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
