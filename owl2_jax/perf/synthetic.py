"""Seeded arrays for the shapes of a workload, made where they will lie."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from owl2_jax.core.axes import IGNORE_LABEL
from owl2_jax.core.tree import Params, PyTree
from owl2_jax.inference.unrolled import unstack_layers
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.owl2 import init_params
from owl2_jax.training.step import DeviceBatch


def params(config: Owl2Config, like: PyTree) -> Params:
    """Random parameters with the structure, shardings and layouts of `like`, stacked or with layers apart."""
    stacked = "0" not in like["decoder"]["layers"]

    def make(key: jax.Array) -> Params:
        made = init_params(config, key)
        return made if stacked else unstack_layers(made)

    places = jax.tree.map(lambda leaf: leaf.format, like)
    # Runs once: on a CPU, compiling it well takes longer than all of its time.
    fast = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(make, out_shardings=places, compiler_options=fast)(jax.random.key(0))


def zeros(like: PyTree) -> PyTree:
    """Zeros with shapes, dtypes and shardings of `like`."""
    places = jax.tree.map(lambda leaf: leaf.sharding, like)

    def make() -> PyTree:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)

    return jax.jit(make, out_shardings=places)()


def images(like: jax.ShapeDtypeStruct) -> jax.Array:
    """Random images, uint8 of the shape of `like`."""
    values = np.random.default_rng(0).integers(0, 256, like.shape, np.uint8)
    return jax.device_put(values, like.sharding)


def batch(config: Owl2Config, like: DeviceBatch) -> DeviceBatch:
    """Full rows of random text, every row's first slot with an image from the second position on.

    Args:
      like: shapes [B, ...], or [A, B, ...] with gradient accumulation.
    """
    rows, span = like.tokens.shape[:-1], config.tokens_per_image
    length, count = like.tokens.shape[-1], like.images.shape[-4]
    tokens = np.random.default_rng(1).integers(0, config.decoder.vocab_size, like.tokens.shape)
    labels = tokens.copy()
    index, starts = np.full(like.image_index.shape, -1), np.zeros(like.image_starts.shape, int)
    if count and index.shape[-1]:
        index[..., 0] = np.broadcast_to(np.arange(rows[-1]) * count // rows[-1], rows)
        starts[..., 0] = 1
        labels[..., 1 : 1 + span] = IGNORE_LABEL
    host = {
        "tokens": tokens,
        "positions": np.broadcast_to(np.arange(length), like.tokens.shape),
        "segment_ids": np.ones(like.tokens.shape),
        "labels": labels,
        "image_index": index,
        "image_starts": starts,
    }
    placed = {
        name: jax.device_put(values.astype(np.int32), getattr(like, name).sharding)
        for name, values in host.items()
    }
    return dataclasses.replace(like, images=images(like.images), **placed)
