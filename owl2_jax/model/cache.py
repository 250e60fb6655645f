"""Key/value cache of the decoder."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from owl2_jax.model.config import Owl2Config

Array = jax.Array


@flax.struct.dataclass
class Cache:
    """Rows stand right-padded: slot s of a row holds its position s, whatever the other rows do.

    Heads come before slots: a head's keys are then one matrix, which attention reads as it lies.

    Attributes:
      keys: dtype[L, B, K, S, H], after rotation.
      values: dtype[L, B, K, S, H].
      lengths: int32[B], positions filled so far and the position of the next token.
    """

    keys: Array
    values: Array
    lengths: Array


def empty_cache(config: Owl2Config, batch: int, length: int) -> Cache:
    """A cache of `batch` rows with room for `length` positions each."""
    decoder = config.decoder
    shape = (decoder.num_layers, batch, decoder.num_kv_heads, length, decoder.head_width)
    return Cache(
        keys=jnp.zeros(shape, config.dtype),
        values=jnp.zeros(shape, config.dtype),
        lengths=jnp.zeros((batch,), jnp.int32),
    )
