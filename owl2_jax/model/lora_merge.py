"""Adapters added to the kernels that they stand beside: `W + alpha / r * A B`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp

from owl2_jax.core import tree
from owl2_jax.core.errors import Owl2Error
from owl2_jax.model.config import FUSED_TARGETS, Owl2Config
from owl2_jax.model.int8 import contracted_axes
from owl2_jax.model.layers import KERNEL_SCALE
from owl2_jax.model.lora import FIRST, SECOND, is_adapter

_KERNEL: Final = "/kernel"


def merge(params: tree.Tree, config: Owl2Config) -> tuple[tree.Params, Owl2Config]:
    """Adds every adapter to its kernel: `W + alpha / r * A B`.

    Returns:
      Parameters without adapters, kernels in `param_dtype`, and the config that
      goes with them.

    Raises:
      Owl2Error: the model has no adapters.
    """
    if config.lora is None:
        raise Owl2Error("the model has no LoRA adapters to merge")
    flat = tree.flatten(params)
    merged = {
        name: jnp.asarray(merged_leaf(name, flat, config))
        for name in flat
        if not is_adapter(name) and not name.endswith(KERNEL_SCALE)
    }
    return tree.unflatten(merged), config.replace(lora=None)


def merged_leaf(name: str, flat: Mapping[str, Any], config: Owl2Config) -> Any:
    """One leaf of the merged model; `flat` needs to hold it and what stands beside it.

    The product is taken in float32 and the sum rounded once, to `param_dtype`.
    """
    scale = name.removesuffix("kernel") + KERNEL_SCALE
    adapter = adapter_of(name)
    first, second = adapter if adapter[0] in flat else fused_adapter_of(name) or adapter
    if not name.endswith(_KERNEL) or (scale not in flat and first not in flat):
        return flat[name]
    kernel = jnp.asarray(flat[name], jnp.float32)
    if scale in flat:
        kernel = kernel * jnp.expand_dims(flat[scale], contracted_axes(name))
    if first in flat:
        assert config.lora is not None
        kernel = kernel + config.lora.scale * _product(flat[first], flat[second]).reshape(kernel.shape)
    return kernel.astype(config.param_dtype)


def beside(name: str) -> tuple[str, ...]:
    """Leaves that `merged_leaf` of a kernel may need, where the model has them."""
    if not name.endswith(_KERNEL):
        return ()
    return (name.removesuffix("kernel") + KERNEL_SCALE, *adapter_of(name), *(fused_adapter_of(name) or ()))


def adapter_of(name: str) -> tuple[str, str]:
    """Names of A and B of the adapter that a kernel of this name may have for itself."""
    place = name.removesuffix("kernel")
    return place + FIRST, place + SECOND


def fused_adapter_of(name: str) -> tuple[str, str] | None:
    """The same of an adapter that it may share with others; None where there is none."""
    room, _, target = name.removesuffix(_KERNEL).rpartition("/")
    for fused, maps in FUSED_TARGETS.items():
        if target in maps:
            return f"{room}/{fused}/{FIRST}", f"{room}/{fused}/{'qkv'[maps.index(target)]}/{SECOND}"
    return None


def _product(first: jax.Array, second: jax.Array) -> jax.Array:
    """float32[L, in..., r] times [L, r, out...], inputs and outputs flat."""
    layers, rank = first.shape[0], first.shape[-1]
    return jnp.einsum(
        "lir,lro->lio",
        jnp.asarray(first, jnp.float32).reshape(layers, -1, rank),
        jnp.asarray(second, jnp.float32).reshape(layers, rank, -1),
        precision=jax.lax.Precision.HIGHEST,
    )
