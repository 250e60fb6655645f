"""Weight-only int8: the decoder's matrices at a quarter of float32, everything else as it is.

The product itself stays in the model's dtype, in which the integers are exact.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import flatten, unflatten
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.model.int8 import contracted_axes, quantize_kernel
from owl2_jax.model.layers import KERNEL_SCALE

_KERNEL = "/kernel"
_quantize = jax.jit(quantize_kernel, static_argnums=1)


def quantize_model(model: LoadedModel) -> LoadedModel:
    """The same model with the decoder's kernels in int8, each beside its scales.

    Raises:
      Owl2Error: it is quantized already.
    """
    flat = flatten(model.params)
    if any(name.endswith(KERNEL_SCALE) for name in flat):
        raise Owl2Error("the model is in int8 already")
    leaves: dict[str, Any] = {}
    for name, leaf in flat.items():
        if not (name.startswith("decoder/") and name.endswith(_KERNEL)):
            leaves[name] = leaf
            continue
        leaves[name], scale = _quantize(leaf, contracted_axes(name))
        leaves[name.removesuffix(_KERNEL) + "/" + KERNEL_SCALE] = scale
    return dataclasses.replace(model, params=unflatten(leaves))
