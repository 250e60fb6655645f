"""The frozen base of a LoRA run in int8, quantised by qwix (extra "int8")."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from owl2_jax.core import tree
from owl2_jax.core.errors import Owl2Error
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.layers import KERNEL_SCALE
from owl2_jax.model.lora import contracted_axes, is_int8_base


def check_qwix(names: Iterable[str]) -> None:
    """Raises `Owl2Error` when leaves of these names must be quantised and qwix is not installed."""
    if any(name.endswith(KERNEL_SCALE) for name in names) and importlib.util.find_spec("qwix") is None:
        raise Owl2Error(
            "model.lora.base is 'int8', but the package qwix is not installed; "
            "run `pip install 'owl2_jax[int8]'`, or set model.lora.base to 'stored'"
        )


def quantize_base(params: tree.Tree, like: tree.Tree, config: Owl2Config) -> dict[str, Any]:
    """Kernels that are to be integers as integers with their scales; the other leaves as they are.

    Args:
      params: the base as floating point numbers. Its kernels are given up.
      like: shapes with shardings of the result.
    """
    leaves = {}
    places = {name: leaf.sharding for name, leaf in tree.flatten(like).items()}
    for name, leaf in tree.flatten(params).items():
        if not is_int8_base(name, config):
            leaves[name] = leaf
            continue
        scale = name.removesuffix("kernel") + KERNEL_SCALE
        quantize = jax.jit(
            functools.partial(_quantize, axes=contracted_axes(name)),
            out_shardings=(places[name], places[scale]),
        )
        leaves[name], leaves[scale] = quantize(leaf)
        leaf.delete()
    return tree.unflatten(leaves)


def _quantize(kernel: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """int8 of the kernel's shape, and float32 scales without the contracted `axes`."""
    import qwix

    kept = [axis for axis in range(kernel.ndim) if axis not in axes]
    found = qwix.quantize(kernel.astype(jnp.float32), jnp.int8, channelwise_axes=kept)
    return found.qvalue, jnp.squeeze(found.scale, axes)
