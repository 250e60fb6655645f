"""Weight-only int8: the decoder's matrices at a quarter of float32, everything else as it is.

The product itself stays in the model's dtype, in which the integers are exact.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

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
    leaves: dict[str, Any] = {}
    for name, leaf in flatten(model.params).items():
        leaves |= quantize_leaf(name, leaf)
    return dataclasses.replace(model, params=unflatten(leaves))


def quantize_leaf(name: str, leaf: Any) -> dict[str, Any]:
    """A leaf as a model in int8 holds it: a kernel of the decoder beside its scales, another one as it is.

    Raises:
      Owl2Error: it is of a model that is quantized already.
    """
    if name.endswith(KERNEL_SCALE):
        raise Owl2Error("the model is in int8 already")
    if not (name.startswith("decoder/") and name.endswith(_KERNEL)):
        return {name: leaf}
    kernel, scale = _quantize(leaf, contracted_axes(name))
    return {name: kernel, name.removesuffix(_KERNEL) + "/" + KERNEL_SCALE: scale}


def quantize_loaded(name: str, leaf: Any) -> dict[str, Any]:
    """As `quantize_leaf`, on the device and done when it returns; a kernel that was rounded is given up."""
    leaf = jnp.asarray(leaf)
    found = jax.block_until_ready(quantize_leaf(name, leaf))
    if found[name] is not leaf:
        leaf.delete()
    return found
