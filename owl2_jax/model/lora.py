"""Low-rank adapters beside linear maps of the decoder: `x W + alpha / r * x A B` (Hu et al. 2021).

    LoraLinear           kernel, lora_a, lora_b       one map with its adapter
    FusedLoraAdapter     lora_a, q/lora_b, k/lora_b   one adapter of several maps, which have a B each

An adapter's parameters are float32 in any case: they are few, and they train.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from owl2_jax.core import tree
from owl2_jax.model.config import LoraConfig, Owl2Config
from owl2_jax.model.layers import Linear, gather_weight, partitioned

Array = jax.Array
Outputs = Mapping[str, tuple[tuple[int, ...], tuple[str, ...]]]  # {name: (shape, logical axes)}

FIRST: Final = "lora_a"
SECOND: Final = "lora_b"


class LoraInput(nn.Module):
    """A of an adapter: what it reads its input with.

    Attributes:
      in_shape, in_axes: of the input, as in `Linear`.
    """

    in_shape: tuple[int, ...]
    in_axes: tuple[str, ...]
    lora: LoraConfig

    @nn.compact
    def __call__(self, flat: Array) -> Array:
        """`x A`, dtype[rows, fan_in] to dtype[rows, r].

        A training step, and nothing else, hands in a "dropout" key.
        """
        lora, fan_in, names = self.lora, math.prod(self.in_shape), (*self.in_axes, None)
        # As PEFT starts them: A uniform as a linear layer of PyTorch, B at zero.
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        start = lambda key, shape, dtype: uniform(key, (fan_in, lora.rank), dtype).reshape(shape)
        first = self.param(
            FIRST,
            partitioned(start, names),
            (*self.in_shape, lora.rank),
            jnp.float32,
        )
        if lora.dropout and self.has_rng("dropout"):
            kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - lora.dropout, flat.shape)
            flat = jnp.where(kept, flat / (1 - lora.dropout), 0).astype(flat.dtype)
        first = gather_weight(first.astype(flat.dtype), names)
        return flat @ first.reshape(fan_in, lora.rank)


class LoraOutput(nn.Module):
    """B of an adapter, for one map; it starts at zero.

    Attributes:
      out_shape, out_axes: of the output, as in `Linear`.
    """

    out_shape: tuple[int, ...]
    out_axes: tuple[str, ...]
    lora: LoraConfig

    @nn.compact
    def __call__(self, inner: Array) -> Array:
        """`(x A) B * alpha / r`, dtype[rows, r] to dtype[rows, fan_out]."""
        names = (None, *self.out_axes)
        second = self.param(
            SECOND, partitioned(nn.initializers.zeros, names), (self.lora.rank, *self.out_shape), jnp.float32
        )
        second = gather_weight(second.astype(inner.dtype), names)
        return (inner @ second.reshape(self.lora.rank, -1)) * jnp.asarray(self.lora.scale, inner.dtype)


class LoraAdapter(nn.Module):
    """`x A B * alpha / r`, of one map."""

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    in_axes: tuple[str, ...]
    out_axes: tuple[str, ...]
    lora: LoraConfig

    @nn.compact
    def __call__(self, flat: Array) -> Array:
        """dtype[rows, fan_in] to dtype[rows, fan_out]."""
        read = LoraInput(self.in_shape, self.in_axes, self.lora)
        write = LoraOutput(self.out_shape, self.out_axes, self.lora)
        for half in (read, write):
            nn.share_scope(self, half)
        return write(read(flat))


class LoraLinear(Linear):
    """A linear map and its adapter, whose parameters stand beside the kernel.

    Attributes:
      lora: the adapter's settings.
    """

    lora: LoraConfig = LoraConfig()

    def _product(self, flat: Array) -> Array:
        product = super()._product(flat)
        adapter = LoraAdapter(self.in_shape, self.out_shape, self.in_axes, self.out_axes, self.lora)
        nn.share_scope(self, adapter)
        return product + adapter(flat)


class FusedLoraAdapter(nn.Module):
    """One adapter of several maps with the same input, as of one map that makes all of their outputs.

    They share A and have a B each.

    Attributes:
      in_shape, in_axes: of the input, as in `Linear`.
      outputs: {name: (shape, logical axes)} of what each map makes.
    """

    in_shape: tuple[int, ...]
    in_axes: tuple[str, ...]
    outputs: Outputs
    lora: LoraConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        """dtype[..., *in_shape] to {name: dtype[..., *shape]}, to add to the maps' own outputs."""
        rows = x.shape[: x.ndim - len(self.in_shape)]
        read = LoraInput(self.in_shape, self.in_axes, self.lora)
        nn.share_scope(self, read)
        inner = read(x.astype(self.dtype).reshape(-1, math.prod(self.in_shape)))
        return {
            name: LoraOutput(shape, names, self.lora, name=name)(inner).reshape(*rows, *shape)
            for name, (shape, names) in self.outputs.items()
        }


def layer_linear(
    config: Owl2Config,
    name: str,
    in_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    in_axes: tuple[str, ...],
    out_axes: tuple[str, ...],
    **settings: Any,
) -> Linear:
    """The linear map `name` of a decoder layer, with its adapter where the config asks for one."""
    lora = config.lora
    settings |= {
        "dtype": config.dtype,
        "param_dtype": config.param_dtype,
        "int8": lora is not None and lora.base == "int8",
        "name": name,
    }
    if lora is not None and name in lora.targets:
        return LoraLinear(in_shape, out_shape, in_axes, out_axes, lora=lora, **settings)
    return Linear(in_shape, out_shape, in_axes, out_axes, **settings)


def is_adapter(name: str) -> bool:
    """Whether a leaf belongs to an adapter."""
    return name.rpartition("/")[2] in (FIRST, SECOND)


def split_adapters(params: tree.Tree) -> tuple[tree.Params, tree.Params]:
    """(adapters, everything else) of a parameter tree; `tree.combine` joins them again."""
    return tree.partition(params, {name: is_adapter(name) for name in tree.flatten(params)})
