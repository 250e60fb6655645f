"""The frozen base of a LoRA run in int8."""

from __future__ import annotations

import functools

import jax

from owl2_jax.core import tree
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.int8 import contracted_axes, is_int8_base, quantize_kernel
from owl2_jax.model.layers import KERNEL_SCALE


def quantize_base(params: tree.Tree, like: tree.Tree, config: Owl2Config) -> tree.Params:
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
            functools.partial(quantize_kernel, axes=contracted_axes(name)),
            out_shardings=(places[name], places[scale]),
        )
        leaves[name], leaves[scale] = quantize(leaf)
        leaf.delete()
    return tree.unflatten(leaves)
