"""Kernels in int8: each output channel has its own scale, so that `x @ kernel ~ (x @ int8) * scale`."""

from __future__ import annotations

from typing import Final

import jax
import jax.numpy as jnp

from owl2_jax.model.config import LINEAR_MAPS, Owl2Config

Array = jax.Array

_LAYERS: Final = "decoder/layers/"


def quantize_kernel(kernel: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Symmetric, to the nearest of 255 levels; a channel's largest magnitude becomes 127.

    Args:
      kernel: any floating point dtype.
      axes: those that a product contracts; all others are channels.

    Returns:
      int8 of the kernel's shape, and float32 scales without the contracted `axes`.
    """
    wide = kernel.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=axes, keepdims=True) / 127.0
    scale = jnp.where(scale == 0, 1.0, scale)  # a channel of zeros
    return jnp.round(wide / scale).astype(jnp.int8), jnp.squeeze(scale, axes)


def is_int8_base(name: str, config: Owl2Config) -> bool:
    """Whether a leaf is a kernel that an int8 base holds as integers."""
    if config.lora is None or config.lora.base != "int8":
        return False
    return name.startswith(_LAYERS) and name.endswith("/kernel") and name.split("/")[-2] in LINEAR_MAPS


def contracted_axes(name: str) -> tuple[int, ...]:
    """Axes of a decoder kernel that its product sums over; [L, in..., out...] inside the layers."""
    first = int("/layers/" in name)
    return tuple(range(first, first + (2 if "/out/" in name else 1)))
