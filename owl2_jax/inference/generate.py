"""The compiled part of generation: prompts into slots, and the decode loop."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from owl2_jax.inference.sampler import MAX_TOP, Chosen, SamplerInputs, SamplerState, count, sample
from owl2_jax.inference.slots import (
    Arrivals,
    Copies,
    Prompts,
    Slots,
    constrain,
    empty_slots,
    insert,
    lengthen,
)
from owl2_jax.model.cache import Cache
from owl2_jax.model.owl2 import Owl2

__all__ = [
    "Arrivals", "Chosen", "Copies", "Prompts", "Slots", "decode", "empty_slots", "encode_images",
    "lengthen", "prefill", "prefill_rest", "run_prompts",
]  # fmt: skip

Array = jax.Array
Params = dict[str, Any]


def encode_images(owl: Owl2, params: Params, pool: Array, images: Array, rows: Array) -> Array:
    """Encodes images into rows of the feature pool.

    Args:
      pool: dtype[F, Q + 1, D].
      images: uint8[M, H, W, 3].
      rows: int32[M]; F (past the end) for an image that pads the batch.
    """
    features = owl.apply({"params": params}, images, method="encode_images")
    return pool.at[rows].set(features.astype(pool.dtype), mode="drop")


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


def prefill(
    owl: Owl2,
    params: Params,
    slots: Slots,
    pool: Array | None,
    arrivals: Arrivals,
) -> tuple[Slots, Chosen]:
    """Runs prompts, puts them into their slots and chooses the first token of each.

    Args:
      pool: as in `run_prompts`.

    Returns:
      The slots and the first tokens, [R].
    """
    tokens = arrivals.prompts.tokens
    last, cache = run_prompts(owl, params, pool, arrivals.prompts, tokens.shape[1])
    return _start(owl, params, slots, arrivals, last, cache, tokens)


def prefill_rest(
    owl: Owl2,
    params: Params,
    slots: Slots,
    pool: Array | None,
    arrivals: Arrivals,
    copies: Copies,
) -> tuple[Slots, Chosen]:
    """As `prefill`, for prompts whose beginnings are copied; `arrivals` holds what follows them."""
    prompts = arrivals.prompts
    keys, values = jax.tree.map(
        lambda part: part.at[:, copies.sources].get(mode="clip"), (slots.cache.keys, slots.cache.values)
    )
    cache = Cache(keys, values, copies.lengths, copies.lengths + prompts.lengths)
    hidden, cache = owl.apply(
        {"params": params}, prompts.tokens, cache, prompts.lengths, pool,
        prompts.image_index, prompts.image_starts, method="extend",
    )  # fmt: skip
    last = hidden[jnp.arange(hidden.shape[0]), jnp.maximum(prompts.lengths - 1, 0)]
    return _start(owl, params, slots, arrivals, last, cache, copies.tokens)


def _start(
    owl: Owl2,
    params: Params,
    slots: Slots,
    arrivals: Arrivals,
    last: Array,
    cache: Cache,
    tokens: Array,
) -> tuple[Slots, Chosen]:
    """Chooses first tokens from the last states, dtype[R, D], and fills the slots."""
    logits = owl.apply({"params": params}, last, method="logits")
    everyone = jnp.arange(last.shape[0])
    prompt = jnp.zeros(logits.shape, bool).at[everyone[:, None], tokens].set(True, mode="drop")
    state = SamplerState(prompt, jnp.zeros(logits.shape, jnp.int32))
    inputs = arrivals.settings.replace(rows=everyone)
    chosen = sample(logits, inputs, state)
    going = jnp.ones(everyone.shape, bool)
    new = Slots(
        cache=cache,
        token=chosen.tokens,
        generated=jnp.ones(everyone.shape, jnp.int32),
        limit=arrivals.limits,
        active=~_ended(chosen.tokens, inputs) & (arrivals.limits > 1),
        sampler=count(state, inputs, chosen.tokens, going),
        settings=inputs,
    )
    return constrain(insert(slots, new, arrivals.slots)), chosen


def decode(
    owl: Owl2,
    params: Params,
    slots: Slots,
    wanted: Array,
    max_steps: Array,
    enough: Array,
    allowed: Array,
    *,
    width: int,
) -> tuple[Slots, Chosen, Array]:
    """Generates up to `max_steps` tokens in every active slot, without asking the host in between.

    Args:
      wanted: bool[B]; the other slots stop here.
      max_steps: int32[], at most `width`.
      enough: int32[]; stops early when no more slots than this are active.
      allowed: uint32[B, W], see `SamplerInputs.allowed`; of one step.
      width: columns of the result.

    Returns:
      The slots; what they chose, [B, width]; and int32[B], how many of the
      columns belong to each slot.
    """
    slots = slots.replace(active=slots.active & wanted)
    before = slots.generated
    chosen = _empty_columns(slots.token.shape[0], width)

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
        inputs = slots.settings.replace(
            rows=jnp.arange(slots.count), generated=slots.generated, allowed=allowed
        )
        chosen = sample(logits, inputs, slots.sampler)
        columns = jax.tree.map(lambda out, new: out.at[:, step].set(new), columns, chosen)
        return step + 1, _advance_slots(slots.replace(cache=cache), chosen.tokens, inputs), columns

    _, slots, chosen = lax.while_loop(going, advance, (jnp.zeros((), jnp.int32), slots, chosen))
    return constrain(slots), chosen, slots.generated - before


def _advance_slots(slots: Slots, token: Array, inputs: SamplerInputs) -> Slots:
    """Active slots take their token; the others stay as they are."""
    active = slots.active
    generated = slots.generated + active
    return slots.replace(
        token=jnp.where(active, token, slots.token),
        generated=generated,
        active=active & ~_ended(token, inputs) & (generated < slots.limit),
        sampler=count(slots.sampler, inputs, token, active),
    )


def _ended(token: Array, inputs: SamplerInputs) -> Array:
    return jnp.any(token[:, None] == inputs.stop_ids, axis=1)


def _empty_columns(rows: int, width: int) -> Chosen:
    return Chosen(
        tokens=jnp.zeros((rows, width), jnp.int32),
        logprobs=jnp.zeros((rows, width), jnp.float32),
        top_tokens=jnp.zeros((rows, width, MAX_TOP), jnp.int32),
        top_logprobs=jnp.zeros((rows, width, MAX_TOP), jnp.float32),
    )
