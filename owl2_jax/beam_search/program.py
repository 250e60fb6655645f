"""What the device does in a call of a search: some tokens of every answer, and which answers go on.

An answer has pages of its own from where its prompt's last whole page ends. Of those that go
on with the same beginning, all read its whole pages where they are, and the page that is being
filled is copied: the block tables of answers change, the pages that rows write to do not.
"""

from __future__ import annotations

from typing import Any, Final

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from owl2_jax.beam_search.ranking import Answers, Grown, Rules, advance
from owl2_jax.core.tree import Params
from owl2_jax.inference.packed import Layout, unpack
from owl2_jax.model.owl2 import Owl2
from owl2_jax.model.pages import PagedBatch, Pages, copy_pages

Array = jax.Array

MOST_STEPS: Final = 64  # of a call


@flax.struct.dataclass
class Searches:
    """R searches with N answers each; what ended, and what fills up, is not going.

    Attributes:
      answers: of `ranking.Answers` with R in front.
      rules: likewise, but for the divisors, which all share.
      tokens: int32[R, N], the newest token of each answer, at first the prompt's last.
      features: int32[R], row of image features in place of the prompt's last token; -1 for text.
      tables: int32[R, N, W], pages of each answer, of which it alone writes those not yet whole.
      lengths: int32[R], positions of the answers, the newest token among them.
      prompt_lengths: int32[R].
    """

    answers: Answers
    rules: Rules
    tokens: Array
    features: Array
    tables: Array
    lengths: Array
    prompt_lengths: Array


@flax.struct.dataclass
class CallInputs:
    """What a call is given.

    Attributes:
      searches: as the call before left them.
      enough: int32[1], the call ends when so many searches have ended in it.
    """

    searches: Searches
    enough: Array


@flax.struct.dataclass
class _Carry:
    index: Array
    pages: Pages
    searches: Searches
    trail: Grown


def extend(
    owl: Owl2, eos_id: int, count: int, layout: Layout, params: Params, pages: Pages, pool: Array,
    end_table: Array | None, buffer: Array,
) -> tuple[Pages, Searches, Grown]:  # fmt: skip
    """Runs up to `MOST_STEPS` tokens of every answer.

    Args:
      count: C, tokens that are listed behind each answer.
      pages: donated.
      buffer: `CallInputs`, packed.

    Returns:
      Pages, the searches, and how their answers came to be in each step, with [MOST_STEPS, R] in front.
    """
    inputs: CallInputs = unpack(buffer, layout)
    searches = inputs.searches
    going = jnp.sum(searches.answers.going)
    shape = (MOST_STEPS, *searches.tokens.shape)
    nothing = jnp.zeros(shape, jnp.int32)
    first = _Carry(jnp.int32(0), pages, searches, Grown(nothing, nothing, jnp.zeros(shape, jnp.float32)))

    def goes_on(carry: _Carry) -> Array:
        left = jnp.sum(carry.searches.answers.going)
        return (carry.index < MOST_STEPS) & (left > 0) & (going - left < inputs.enough[0])

    def step(carry: _Carry) -> _Carry:
        return _step(owl, eos_id, count, params, pool, end_table, carry)

    last = lax.while_loop(goes_on, step, first)
    return last.pages, last.searches, last.trail


def _step(
    owl: Owl2, eos_id: int, count: int, params: Any, pool: Array, end_table: Array | None, carry: _Carry
) -> _Carry:
    """One more token of every answer."""
    searches, before = carry.searches, carry.searches.answers
    (rows, beams), variables = searches.tokens.shape, {"params": params}
    features = jnp.where(before.made == 0, searches.features, -1)
    hidden, pages = owl.apply(
        variables, searches.tokens.reshape(-1), pool, jnp.repeat(features, beams), carry.pages,
        _batch(searches), method="step",
    )  # fmt: skip
    logprobs = jax.nn.log_softmax(owl.apply(variables, hidden, method="logits"), axis=-1)
    early = jnp.repeat(before.made < searches.rules.floor, beams)
    logprobs = logprobs.at[:, eos_id].set(jnp.where(early, -jnp.inf, logprobs[:, eos_id]))
    logprobs, tokens = (
        part.reshape(rows, beams, -1) for part in lax.top_k(logprobs, min(count, logprobs.shape[1]))
    )
    of_each = Rules(limit=0, floor=0, divisors=None)
    after, grown = jax.vmap(
        lambda *each: advance(*each, eos_id, end_table), in_axes=(0, 0, 0, of_each)
    )(before, logprobs, tokens, searches.rules)  # fmt: skip
    after = jax.tree.map(lambda new, old: _where(before.going, new, old), after, before)
    searches = searches.replace(answers=after, tokens=grown.tokens, lengths=searches.lengths + before.going)
    searches, pages = _hand_on(searches, pages, grown.parents, owl.config.decoder.num_layers)
    trail = jax.tree.map(lambda every, new: every.at[carry.index].set(new), carry.trail, grown)
    return _Carry(carry.index + 1, pages, searches, trail)


def _live(searches: Searches) -> Array:
    """bool[R, N], rows with an answer that goes on."""
    return searches.answers.going[:, None] & (searches.answers.scores > -jnp.inf)


def _batch(searches: Searches) -> PagedBatch:
    """One token of each answer; rows without one see a position and write none."""
    rows, beams = searches.tokens.shape
    numbers = jnp.arange(rows * beams, dtype=jnp.int32)
    live = _live(searches).reshape(-1)
    lengths = jnp.where(live, jnp.repeat(searches.lengths, beams), 1)
    return PagedBatch(
        rows=jnp.where(live, numbers, rows * beams),
        positions=lengths - 1,
        block_tables=searches.tables.reshape(rows * beams, -1),
        starts=jnp.arange(rows * beams + 1, dtype=jnp.int32),
        lengths=lengths,
        count=jnp.full(1, rows * beams, jnp.int32),
        prompt_lengths=jnp.repeat(searches.prompt_lengths, beams),
    )


def _hand_on(searches: Searches, pages: Pages, parents: Array, num_layers: int) -> tuple[Searches, Pages]:
    """Gives every answer the pages of what it extends, and a copy of the one that is not whole."""
    written, size = searches.lengths - 1, pages.page_size  # positions that have keys and values
    current = (written // size)[:, None, None]
    theirs = jnp.take_along_axis(searches.tables, parents[:, :, None], axis=1)
    is_whole = jnp.arange(theirs.shape[2]) < current
    tables = jnp.where(is_whole & searches.answers.going[:, None, None], theirs, searches.tables)
    other = parents != jnp.arange(parents.shape[1])
    copied = _live(searches) & other & (written % size > 0)[:, None]
    current = jnp.minimum(current, theirs.shape[2] - 1)
    sources = jnp.take_along_axis(theirs, current, axis=2).reshape(-1)
    targets = jnp.take_along_axis(tables, current, axis=2).reshape(-1)
    targets = jnp.where(copied.reshape(-1), targets, jnp.iinfo(jnp.int32).max)
    pages = lax.cond(
        jnp.any(copied), lambda held: copy_pages(held, sources, targets, num_layers), lambda held: held, pages
    )
    return searches.replace(tables=tables), pages


def _where(which: Array, new: Array, old: Array) -> Array:
    return jnp.where(which.reshape(which.shape + (1,) * (new.ndim - 1)), new, old)


EXTEND = jax.jit(extend, static_argnums=(0, 1, 2, 3), donate_argnums=5)
