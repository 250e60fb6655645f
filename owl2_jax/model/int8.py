"""Kernels in int8: each output channel has its own scale, so that `x @ kernel ~ (x @ int8) * scale`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


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
