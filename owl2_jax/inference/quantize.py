"""Weight-only int8: the decoder's matrices at a quarter of float32, everything else as it is.

Each output channel of a matrix has its own scale, so that
`x @ kernel ~ (x @ int8) * scale`. The product itself stays in the model's dtype,
in which the integers are exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import flatten, unflatten
from owl2_jax.inference.loaded import LoadedModel
from owl2_jax.model.layers import Linear

Array = jax.Array

SCALE = "kernel_scale"
_KERNEL = "/kernel"


def quantize_model(model: LoadedModel) -> LoadedModel:
    """The same model with the decoder's kernels in int8, each beside its scales.

    Raises:
      Owl2Error: it is quantized already.
    """
    flat = flatten(model.params)
    if any(name.endswith(SCALE) for name in flat):
        raise Owl2Error("the model is in int8 already")
    leaves: dict[str, Any] = {}
    for name, leaf in flat.items():
        if not (name.startswith("decoder/") and name.endswith(_KERNEL)):
            leaves[name] = leaf
            continue
        stacked, in_axes = "/layers/" in name, 2 if "/out/" in name else 1
        axes = tuple(range(stacked, stacked + in_axes))
        leaves[name], scale = _quantize(leaf, axes)
        leaves[name.removesuffix(_KERNEL) + "/" + SCALE] = scale
    return dataclasses.replace(model, params=unflatten(leaves))


@jax.jit(static_argnums=1)
def _quantize(kernel: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """int8 of the kernel's shape, and float32 scales without the contracted `axes`."""
    wide = kernel.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=axes, keepdims=True) / 127.0
    scale = jnp.where(scale == 0, 1.0, scale)  # a channel of zeros
    return jnp.round(wide / scale).astype(jnp.int8), jnp.squeeze(scale, axes)


def apply_scales(
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    context: nn.module.InterceptorContext,
) -> Any:
    """For `nn.intercept_methods`: multiplies what a `Linear` returns by its scales, where it has any."""
    y = call(*args, **kwargs)
    module = context.module
    if not isinstance(module, Linear) or context.method_name != "__call__":
        return y
    if not module.has_variable("params", SCALE):
        return y
    return y * module.get_variable("params", SCALE).astype(y.dtype)
