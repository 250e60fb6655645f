"""The state of requests in progress, on the device, and what goes into and comes out of it.

A slot is a row of the key/value cache with everything its request needs. Rows
never look at each other, so a request's answer does not depend on its company.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from owl2_jax.core import axes
from owl2_jax.inference.sampler import SamplerInputs, SamplerState, empty_state
from owl2_jax.inference.sampler_rows import SamplerRows
from owl2_jax.inference.unrolled import new_cache
from owl2_jax.model.cache import Cache
from owl2_jax.model.owl2 import Owl2

Array = jax.Array


@flax.struct.dataclass
class Slots:
    """The state of B requests in progress.

    Attributes:
      cache: B rows of S positions.
      token: int32[B], the newest token, not yet in the cache.
      generated: int32[B], tokens of the answer so far.
      limit: int32[B], most tokens of the answer.
      active: bool[B], still generating.
      sampler: of B rows, what penalties need.
      settings: what B rows ask of the sampler.
    """

    cache: Cache
    token: Array
    generated: Array
    limit: Array
    active: Array
    sampler: SamplerState
    settings: SamplerInputs

    @property
    def length(self) -> int:
        """S, positions that a slot has room for."""
        return jax.tree.leaves(self.cache.keys)[0].shape[3]

    @property
    def count(self) -> int:
        """B."""
        return self.token.shape[0]


@flax.struct.dataclass
class Prompts:
    """R right-padded prompts.

    Attributes:
      tokens: int32[R, T]; V at the positions of images and of padding.
      lengths: int32[R], 0 for a row that pads the batch.
      image_index: int32[R, I], row of the feature pool, -1 for an empty slot.
      image_starts: int32[R, I].
    """

    tokens: Array
    lengths: Array
    image_index: Array
    image_starts: Array


@flax.struct.dataclass
class Arrivals:
    """R prompts on their way into slots.

    Attributes:
      prompts: R rows.
      slots: int32[R], where to; B (past the end) for a row that pads the batch.
      limits: int32[R], most tokens of the answer.
      settings: what R rows ask of the sampler.
    """

    prompts: Prompts
    slots: Array
    limits: Array
    settings: SamplerInputs


@flax.struct.dataclass
class Copies:
    """Beginnings of R prompts that other slots hold already.

    Attributes:
      sources: int32[R], slots to copy from.
      lengths: int32[R], positions to copy.
      tokens: int32[R, S], the whole prompts; V at images and padding.
    """

    sources: Array
    lengths: Array
    tokens: Array


def constrain(slots: Slots) -> Slots:
    """Says where slots lie on a mesh: rows over the batch axes, heads over the tensor axis."""
    positions = (axes.LAYERS, axes.BATCH, axes.ACT_HEADS, axes.CACHE, None)

    def place(array: Array) -> Array:
        names = positions if array.ndim == 5 else (axes.BATCH, *[None] * (array.ndim - 1))
        return nn.with_logical_constraint(array, names)

    return jax.tree.map(place, slots)


def empty_slots(owl: Owl2, count: int, length: int) -> Slots:
    """`count` free slots with room for `length` positions each."""
    vocab_size, everyone = owl.config.decoder.vocab_size, np.arange(count)
    slots = Slots(
        cache=new_cache(owl, count, length),
        token=jnp.zeros((count,), jnp.int32),
        generated=jnp.zeros((count,), jnp.int32),
        limit=jnp.zeros((count,), jnp.int32),
        active=jnp.zeros((count,), bool),
        sampler=empty_state(count, vocab_size),
        settings=jax.tree.map(
            jnp.asarray, SamplerRows(count, vocab_size, -1).take(everyone, everyone * 0, count)
        ),
    )
    return constrain(slots)


def lengthen(slots: Slots, length: int) -> Slots:
    """The same slots with room for `length` positions."""
    more = [(0, 0), (0, 0), (0, 0), (0, length - slots.length), (0, 0)]
    keys, values = jax.tree.map(lambda part: jnp.pad(part, more), (slots.cache.keys, slots.cache.values))
    return constrain(slots.replace(cache=slots.cache.replace(keys=keys, values=values)))


def insert(slots: Slots, new: Slots, where: Array) -> Slots:
    """Overwrites the slots `where` (int32[R]) with rows of `new`; rows past the end are dropped."""
    length = new.length

    def put_cache(old: Array, rows: Array) -> Array:
        return old.at[:, where, :, :length].set(rows, mode="drop")

    cache = Cache(
        keys=jax.tree.map(put_cache, slots.cache.keys, new.cache.keys),
        values=jax.tree.map(put_cache, slots.cache.values, new.cache.values),
        lengths=slots.cache.lengths.at[where].set(new.cache.lengths, mode="drop"),
        prompt_lengths=slots.cache.prompt_lengths.at[where].set(new.cache.prompt_lengths, mode="drop"),
    )
    rest = jax.tree.map(
        lambda old, row: old.at[where].set(row, mode="drop"),
        slots.replace(cache=None),
        new.replace(cache=None),
    )
    return rest.replace(cache=cache)
