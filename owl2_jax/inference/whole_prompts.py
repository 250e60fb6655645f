"""Whole prompts side by side, run once into a cache of their own: for options, beams and attention maps."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from owl2_jax.model.cache import Cache
from owl2_jax.model.owl2 import Owl2

Array = jax.Array
Params = dict[str, Any]


@flax.struct.dataclass
class Prompts:
    """R right-padded prompts.

    Attributes:
      tokens: int32[R, T]; V at the positions of images and of padding.
      lengths: int32[R], 0 for a row that pads the batch.
      image_index: int32[R, I], row of the feature pool, -1 for none.
      image_starts: int32[R, I].
    """

    tokens: Array
    lengths: Array
    image_index: Array
    image_starts: Array


def run_prompts(
    owl: Owl2, params: Params, pool: Array | None, prompts: Prompts, cache_length: int
) -> tuple[Array, Cache]:
    """Runs prompts from their first position on.

    Args:
      pool: features of images, dtype[F, Q + 1, D]; None when no row has one.
      cache_length: positions of the new cache, at least T.

    Returns:
      The state at the last position of each row, dtype[R, D], and the cache.
    """
    rows, length = prompts.tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))
    segment_ids = (positions < prompts.lengths[:, None]).astype(jnp.int32)
    hidden, cache = owl.apply(
        {"params": params}, prompts.tokens, positions, segment_ids, pool, prompts.image_index,
        prompts.image_starts, cache_length, method="prefill",
    )  # fmt: skip
    return hidden[jnp.arange(rows), jnp.maximum(prompts.lengths - 1, 0)], cache
