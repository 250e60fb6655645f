"""A small model with and without adapters, for their tests."""

from __future__ import annotations

import functools

import jax
import numpy as np

from owl2_jax.core import tree
from owl2_jax.model.config import LoraConfig
from owl2_jax.model.lora import is_adapter
from owl2_jax.model.owl2 import Owl2, init_params
from owl2_jax.testing import tiny

PLAIN = tiny.tiny_config()
LORA = LoraConfig(rank=3, alpha=6.0, dropout=0.5)
INPUTS = {name: value for name, value in tiny.tiny_inputs(PLAIN).items() if name != "labels"}


def params_of(config, seed=0):
    """Random parameters whose adapters do something."""
    params = init_params(config, jax.random.key(seed))
    chance = np.random.default_rng(seed)
    return tree.unflatten(
        {
            name: chance.standard_normal(leaf.shape).astype(np.float32) * 0.1 if is_adapter(name) else leaf
            for name, leaf in tree.flatten(params).items()
        }
    )


@functools.cache
def logits_of(config):
    return jax.jit(lambda params: Owl2(config).apply({"params": params}, **INPUTS))
