"""Starting values of the vision encoder that let it learn from few images.

A transformer that starts from plain noise first has to find out which patches
are neighbours and what to pass on; on a few thousand images that takes most
of the training. So attention starts as in trained encoders (Trockman and Kolter
2023, "Mimetic initialization of self-attention layers"): keys equal to queries,
so that a token attends to tokens like itself, and values that leave as a
fraction of the token with its sign turned. Positions start as sines (Vaswani et al. 2017),
in which near patches are alike. Weights that are loaded are not touched.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from owl2_jax.model.layers import Initializer, fan_in_normal

Array = jax.Array

# How far the product of value and output projection starts along minus the
# identity, and how large its noise is (section 4 of the paper).
MIXING = 0.4
# Wave length of the slowest sine, in patches over 2 pi.
SLOWEST = 10_000.0
# Standard deviation of what queries and keys of the decoder have in common.
NEARNESS = 0.5


def alike_qkv(key: Array, shape: Sequence[int], dtype: DTypeLike) -> Array:
    """Fused projection [E, N, 3, H] with N * H = E: keys = queries, values = the token cut into heads."""
    width, heads, _, head_dim = shape
    query = fan_in_normal(1)(key, (width, heads, head_dim), dtype)
    value = jnp.eye(width, dtype=dtype).reshape(width, heads, head_dim)
    return jnp.stack([query, query, value], axis=2)


def mixing_out(key: Array, shape: Sequence[int], dtype: DTypeLike) -> Array:
    """Output projection [N, H, E] after `alike_qkv`: minus a fraction of the identity, and noise."""
    heads, head_dim, width = shape
    noise = fan_in_normal(2)(key, shape, dtype)
    return MIXING * (noise - jnp.eye(width, dtype=dtype).reshape(heads, head_dim, width))


def sine_positions(key: Array, shape: Sequence[int], dtype: DTypeLike) -> Array:
    """Table [P + 1, E] of sines and cosines of column and row; the class token's entry is zero.

    Its entries have unit size, as embedded patches have: a faint table is not
    read until late in training.
    """
    rows, width = shape
    grid = round((rows - 1) ** 0.5)
    row, column = np.mgrid[:grid, :grid].reshape(2, -1, 1)
    # A width that four waves do not divide leaves its last entries zero.
    waves = width // 4
    frequency = SLOWEST ** -(np.arange(waves) / waves)
    table = [wave(place * frequency) for place in (column, row) for wave in (np.sin, np.cos)]
    placed = np.zeros((rows, width), np.float32)
    placed[1:, : 4 * waves] = 2**0.5 * np.concatenate(table, axis=1)
    return jnp.asarray(placed, dtype)


def near_tokens(num_kv_heads: int) -> Initializer:
    """Biases of queries and keys, [N, H]: equal ones, which rotation lets agree most at the same place.

    So a head of the decoder starts with near tokens, and finds early what a word stands beside.
    """

    def start(_: Array, shape: Sequence[int], dtype: DTypeLike) -> Array:
        heads, head_dim = shape
        table = np.random.default_rng(0).normal(0.0, NEARNESS, (num_kv_heads, head_dim))
        return jnp.asarray(np.repeat(table, heads // num_kv_heads, axis=0), dtype)

    return start
