"""Named model sizes. A test pins the parameter count of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

from owl2_jax.core.errors import unknown_name
from owl2_jax.model.config import AbstractorConfig, DecoderConfig, Owl2Config, VisionConfig

_QWEN_7B: Final = DecoderConfig(
    vocab_size=151936, norm_eps=1e-6, max_length=8192, adaptive="qkv", qkv_bias=True, trained_length=8192,
    dynamic_ntk=True, logn=True,
)  # fmt: skip


def owl2_7b() -> Owl2Config:
    """The released model: ViT-L/14 at 448 px, 64 queries, LLaMA-2-7B."""
    return Owl2Config(dtype="bfloat16", remat="full")


def owl2_1_7b() -> Owl2Config:
    """mPLUG-Owl2.1: the same eyes before Qwen-7B; a checkpoint has its own lengths."""
    return Owl2Config(dtype="bfloat16", remat="full", decoder=_QWEN_7B)


def owl2_1_tiny() -> Owl2Config:
    """`owl2_tiny` with the decoder of mPLUG-Owl2.1."""
    tiny = owl2_tiny()
    decoder = dataclasses.replace(
        tiny.decoder,
        norm_eps=1e-6,
        adaptive="qkv",
        qkv_bias=True,
        trained_length=256,
        dynamic_ntk=True,
        logn=True,
    )
    return dataclasses.replace(tiny, decoder=decoder)


def owl2_tiny() -> Owl2Config:
    """The true architecture at a size that learns real data on two cores."""
    return Owl2Config(
        vision=VisionConfig(width=128, num_layers=2, num_heads=4, mlp_dim=512, patch_size=8, image_size=64),
        abstractor=AbstractorConfig(num_layers=2, num_heads=4, mlp_dim=352, num_queries=8),
        decoder=DecoderConfig(
            vocab_size=4096,
            width=128,
            num_layers=3,
            num_heads=4,
            num_kv_heads=4,
            mlp_dim=352,
            max_length=256,
        ),
        scan_unroll=3,
    )


def owl2_bench() -> Owl2Config:
    """A middle size for speed comparisons on a CPU (see `owl2 bench`)."""
    return Owl2Config(
        vision=VisionConfig(width=256, num_layers=6, num_heads=8, mlp_dim=1024, image_size=224),
        abstractor=AbstractorConfig(num_layers=3, num_heads=8, mlp_dim=704, num_queries=64),
        decoder=DecoderConfig(
            vocab_size=32000, width=512, num_layers=8, num_heads=8, num_kv_heads=8, mlp_dim=1376
        ),
        scan_unroll=8,  # a CPU would copy what a scan stacks for the way back
    )


PRESETS: Final[dict[str, Callable[[], Owl2Config]]] = {
    "owl2_1_7b": owl2_1_7b,
    "owl2_1_tiny": owl2_1_tiny,
    "owl2_7b": owl2_7b,
    "owl2_bench": owl2_bench,
    "owl2_tiny": owl2_tiny,
}


def preset(name: str) -> Owl2Config:
    """Raises `UnknownNameError` with the nearest names."""
    if not isinstance(name, str) or name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]()
