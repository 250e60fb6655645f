"""Key/value cache of the decoder."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from owl2_jax.model.config import Owl2Config

Array = jax.Array


@flax.struct.dataclass
class Cache:
    """Rows stand right-padded: index s of a row holds its position s, whatever the other rows do.

    Heads come before positions: a head's keys are then one matrix, which attention reads as it lies.

    Attributes:
      keys: dtype[L, B, K, S, H], after rotation.
      values: dtype[L, B, K, S, H].
      lengths: int32[B], positions filled so far and the position of the next token.
      prompt_lengths: int32[B], keys of the whole prompt that a row began with;
        every key of a row is rotated as it says (`model.rotary`).
    """

    keys: Array
    values: Array
    lengths: Array
    prompt_lengths: Array


def empty_cache(config: Owl2Config, batch: int, length: int) -> Cache:
    """A cache of `batch` rows with room for `length` positions each."""
    decoder = config.decoder
    shape = (decoder.num_layers, batch, decoder.num_kv_heads, length, decoder.head_dim)
    return Cache(
        keys=jnp.zeros(shape, config.dtype),
        values=jnp.zeros(shape, config.dtype),
        lengths=jnp.zeros((batch,), jnp.int32),
        prompt_lengths=jnp.zeros((batch,), jnp.int32),
    )


def write(part: Array, layer: Array, positions: Array, new: Array) -> Array:
    """Puts the keys or the values of T tokens into one layer; positions past the end are dropped.

    Args:
      part: dtype[L, B, K, S, H].
      layer: int32[].
      positions: int32[B, T].
      new: dtype[B, T, K, H].
    """
    rows, heads = jnp.arange(new.shape[0])[:, None], jnp.arange(new.shape[2])
    new = new.astype(part.dtype)

    def by_token(part: Array, new: Array) -> Array:
        return part.at[layer, rows, :, positions].set(new, mode="drop")

    def by_head(part: Array, new: Array) -> Array:
        return part.at[layer, rows[:, :, None], heads, positions[:, :, None]].set(new, mode="drop")

    # A CPU loops over the writes, and does well with few. Of the few, each with a gap
    # between heads, the TPU's compiler makes copies of the whole cache.
    return lax.platform_dependent(part, new, cpu=by_token, default=by_head)
