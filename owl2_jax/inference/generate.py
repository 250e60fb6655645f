"""The compiled part of generation: slots on the device, prefill into them, and the decode loop.

A slot is a row of the key/value cache with everything its request needs. Rows
never look at each other, so a request's answer does not depend on its company.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from owl2_jax.core import axes
from owl2_jax.inference.sampling import Sampling, SamplingArrays, choose, stack_settings
from owl2_jax.inference.unrolled import new_cache
from owl2_jax.model.cache import Cache
from owl2_jax.model.owl2 import Owl2

Array = jax.Array
Params = dict[str, Any]


@flax.struct.dataclass
class Slots:
    """The state of B requests in progress.

    Attributes:
      cache: B rows of S positions.
      token: int32[B], the newest token, not yet in the cache.
      generated: int32[B], tokens of the answer so far.
      floor, limit: int32[B], fewest and most tokens of the answer.
      active: bool[B], still generating.
      seen: bool[B, V], tokens of the prompt and the answer.
      settings: sampling settings of B rows.
    """

    cache: Cache
    token: Array
    generated: Array
    floor: Array
    limit: Array
    active: Array
    seen: Array
    settings: SamplingArrays

    @property
    def length(self) -> int:
        """S, positions that a slot has room for."""
        return jax.tree.leaves(self.cache.keys)[0].shape[2]

    @property
    def count(self) -> int:
        """B."""
        return self.token.shape[0]


@flax.struct.dataclass
class Prompts:
    """R right-padded prompts.

    Attributes:
      tokens: int32[R, T]; V at the positions of pictures and of padding.
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
      floors, limits: int32[R], fewest and most tokens of the answer.
      settings: sampling settings of R rows.
    """

    prompts: Prompts
    slots: Array
    floors: Array
    limits: Array
    settings: SamplingArrays


@flax.struct.dataclass
class Copies:
    """Beginnings of R prompts that other slots hold already.

    Attributes:
      sources: int32[R], slots to copy from.
      lengths: int32[R], positions to copy.
      tokens: int32[R, S], the whole prompts; V at pictures and padding.
    """

    sources: Array
    lengths: Array
    tokens: Array


@flax.struct.dataclass
class Chosen:
    """Tokens with their log-probabilities.

    Attributes:
      tokens: int32[...].
      logprobs: float32[...].
      top_tokens: int32[..., C], the likeliest, best first; C may be 0.
      top_logprobs: float32[..., C].
    """

    tokens: Array
    logprobs: Array
    top_tokens: Array
    top_logprobs: Array


def constrain(slots: Slots) -> Slots:
    """Says where slots lie on a mesh: rows over the batch axes, heads over the tensor axis."""
    positions = (axes.LAYERS, axes.BATCH, axes.CACHE, axes.ACT_HEADS, None)

    def place(array: Array) -> Array:
        names = positions if array.ndim == 5 else (axes.BATCH, *[None] * (array.ndim - 1))
        return nn.with_logical_constraint(array, names)

    return jax.tree.map(place, slots)


def empty_slots(owl: Owl2, count: int, length: int) -> Slots:
    """`count` free slots with room for `length` positions each."""
    slots = Slots(
        cache=new_cache(owl, count, length),
        token=jnp.zeros((count,), jnp.int32),
        generated=jnp.zeros((count,), jnp.int32),
        floor=jnp.zeros((count,), jnp.int32),
        limit=jnp.zeros((count,), jnp.int32),
        active=jnp.zeros((count,), bool),
        seen=jnp.zeros((count, owl.config.decoder.vocab_size), bool),
        settings=jax.tree.map(jnp.asarray, stack_settings([Sampling()], count)),
    )
    return constrain(slots)


def lengthen(slots: Slots, length: int) -> Slots:
    """The same slots with room for `length` positions."""
    more = [(0, 0), (0, 0), (0, length - slots.length), (0, 0), (0, 0)]
    keys, values = jax.tree.map(lambda part: jnp.pad(part, more), (slots.cache.keys, slots.cache.values))
    return constrain(slots.replace(cache=slots.cache.replace(keys=keys, values=values)))


def encode_images(owl: Owl2, params: Params, pool: Array, images: Array, rows: Array) -> Array:
    """Encodes pictures into rows of the feature pool.

    Args:
      pool: dtype[F, Q + 1, D].
      images: uint8[M, H, W, 3].
      rows: int32[M]; F (past the end) for a picture that pads the batch.
    """
    features = owl.apply({"params": params}, images, method="encode_images")
    return pool.at[rows].set(features.astype(pool.dtype), mode="drop")


def run_prompts(
    owl: Owl2, params: Params, pool: Array | None, prompts: Prompts, cache_length: int
) -> tuple[Array, Cache]:
    """Runs prompts from their first position on.

    Args:
      pool: features of pictures, dtype[F, Q + 1, D]; None when no row has one.
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


def prefill(
    owl: Owl2,
    eos_id: int,
    params: Params,
    slots: Slots,
    pool: Array | None,
    arrivals: Arrivals,
    *,
    plain: bool,
    top: int,
) -> tuple[Slots, Chosen]:
    """Runs prompts, puts them into their slots and chooses the first token of each.

    Args:
      pool: as in `run_prompts`.
      plain: every row chooses the likeliest token.
      top: C, likeliest tokens to list.

    Returns:
      The slots and the first tokens, [R].
    """
    tokens = arrivals.prompts.tokens
    last, cache = run_prompts(owl, params, pool, arrivals.prompts, tokens.shape[1])
    return _start(owl, eos_id, params, slots, arrivals, last, cache, tokens, plain, top)


def prefill_rest(
    owl: Owl2,
    eos_id: int,
    params: Params,
    slots: Slots,
    pool: Array | None,
    arrivals: Arrivals,
    copies: Copies,
    *,
    plain: bool,
    top: int,
) -> tuple[Slots, Chosen]:
    """As `prefill`, for prompts whose beginnings are copied; `arrivals` holds what follows them."""
    prompts = arrivals.prompts
    keys, values = jax.tree.map(
        lambda part: part.at[:, copies.sources].get(mode="clip"), (slots.cache.keys, slots.cache.values)
    )
    hidden, cache = owl.apply(
        {"params": params}, prompts.tokens, Cache(keys, values, copies.lengths), prompts.lengths, pool,
        prompts.image_index, prompts.image_starts, method="extend",
    )  # fmt: skip
    last = hidden[jnp.arange(hidden.shape[0]), jnp.maximum(prompts.lengths - 1, 0)]
    return _start(owl, eos_id, params, slots, arrivals, last, cache, copies.tokens, plain, top)


def _start(
    owl: Owl2,
    eos_id: int,
    params: Params,
    slots: Slots,
    arrivals: Arrivals,
    last: Array,
    cache: Cache,
    tokens: Array,
    plain: bool,
    top: int,
) -> tuple[Slots, Chosen]:
    """Chooses first tokens from the last states, dtype[R, D], and fills the slots."""
    logits = owl.apply({"params": params}, last, method="logits")
    everyone = jnp.arange(last.shape[0])
    seen = jnp.zeros(logits.shape, bool).at[everyone[:, None], tokens].set(True, mode="drop")
    step = jnp.zeros(everyone.shape, jnp.int32)
    logits = _forbid_end(logits, step, arrivals.floors, eos_id)
    chosen = _choose(logits, arrivals.settings, seen, step, plain, top)
    new = Slots(
        cache=cache,
        token=chosen.tokens,
        generated=step + 1,
        floor=arrivals.floors,
        limit=arrivals.limits,
        active=(chosen.tokens != eos_id) & (arrivals.limits > 1),
        seen=seen.at[everyone, chosen.tokens].set(True),
        settings=arrivals.settings,
    )
    return constrain(_insert(slots, new, arrivals.slots)), chosen


def decode(
    owl: Owl2,
    eos_id: int,
    params: Params,
    slots: Slots,
    wanted: Array,
    max_steps: Array,
    enough: Array,
    *,
    width: int,
    plain: bool,
    top: int,
) -> tuple[Slots, Chosen, Array]:
    """Generates up to `max_steps` tokens in every active slot, without asking the host in between.

    Args:
      wanted: bool[B]; the other slots stop here.
      max_steps: int32[], at most `width`.
      enough: int32[]; stops early when no more slots than this are active.
      width: columns of the result.
      plain, top: as in `prefill`.

    Returns:
      The slots; what they chose, [B, width]; and int32[B], how many of the
      columns belong to each slot.
    """
    slots = slots.replace(active=slots.active & wanted)
    before = slots.generated
    chosen = _empty_columns(slots.token.shape[0], width, top)

    def going(carry: tuple[Array, Slots, Chosen]) -> Array:
        step, slots, _ = carry
        return (step < max_steps) & (jnp.sum(slots.active) > enough)

    def advance(carry: tuple[Array, Slots, Chosen]) -> tuple[Array, Slots, Chosen]:
        step, slots, columns = carry
        hidden, cache = owl.apply(
            {"params": params}, slots.token[:, None], slots.cache, slots.active.astype(jnp.int32),
            method="extend",
        )  # fmt: skip
        logits = owl.apply({"params": params}, hidden[:, 0], method="logits")
        logits = _forbid_end(logits, slots.generated, slots.floor, eos_id)
        chosen = _choose(logits, slots.settings, slots.seen, slots.generated, plain, top)
        columns = jax.tree.map(lambda out, new: out.at[:, step].set(new), columns, chosen)
        return step + 1, _advance_slots(slots.replace(cache=cache), chosen.tokens, eos_id, plain), columns

    _, slots, chosen = lax.while_loop(going, advance, (jnp.zeros((), jnp.int32), slots, chosen))
    return constrain(slots), chosen, slots.generated - before


def _advance_slots(slots: Slots, token: Array, eos_id: int, plain: bool) -> Slots:
    """Active slots take their token; the others stay as they are."""
    active = slots.active
    generated = slots.generated + active
    seen = slots.seen
    if not plain:
        # A plain step skips this: only rows with a penalty read it, and they are not plain.
        seen = seen.at[jnp.arange(token.shape[0]), token].max(active)
    return slots.replace(
        token=jnp.where(active, token, slots.token),
        generated=generated,
        active=active & (token != eos_id) & (generated < slots.limit),
        seen=seen,
    )


def _forbid_end(logits: Array, step: Array, floor: Array, eos_id: int) -> Array:
    """Rules `</s>` out while an answer is shorter than its floor."""
    return logits.at[:, eos_id].set(jnp.where(step < floor, -jnp.inf, logits[:, eos_id]))


def _choose(
    logits: Array, settings: SamplingArrays, seen: Array, step: Array, plain: bool, top: int
) -> Chosen:
    tokens = choose(logits, settings, seen, step, plain)
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    logprobs = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0] - normalizer
    best, best_tokens = lax.top_k(logits, top)
    return Chosen(tokens, logprobs, best_tokens, best - normalizer[:, None])


def _empty_columns(rows: int, width: int, top: int) -> Chosen:
    return Chosen(
        tokens=jnp.zeros((rows, width), jnp.int32),
        logprobs=jnp.zeros((rows, width), jnp.float32),
        top_tokens=jnp.zeros((rows, width, top), jnp.int32),
        top_logprobs=jnp.zeros((rows, width, top), jnp.float32),
    )


def _insert(slots: Slots, new: Slots, where: Array) -> Slots:
    """Overwrites the slots `where` (int32[R]) with rows of `new`; rows past the end are dropped."""
    length = new.length

    def put_cache(old: Array, rows: Array) -> Array:
        return old.at[:, where, :length].set(rows, mode="drop")

    cache = Cache(
        keys=jax.tree.map(put_cache, slots.cache.keys, new.cache.keys),
        values=jax.tree.map(put_cache, slots.cache.values, new.cache.values),
        lengths=slots.cache.lengths.at[where].set(new.cache.lengths, mode="drop"),
    )
    rest = jax.tree.map(
        lambda old, row: old.at[where].set(row, mode="drop"),
        slots.replace(cache=None),
        new.replace(cache=None),
    )
    return rest.replace(cache=cache)
