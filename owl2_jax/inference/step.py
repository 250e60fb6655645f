"""The step program: a flat batch of tokens through the model, and the next token of every row.

One function serves prompts in chunks, answers, and both together. Its key is the
number of tokens T and of rows S, and nothing else: lengths, pages, images and
settings are data. When every row has one token, it may go on for some steps
without asking the host in between.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from owl2_jax.core import platforms
from owl2_jax.core.tree import Params
from owl2_jax.inference.sampler_rows import SamplerRows
from owl2_jax.model.owl2 import Owl2
from owl2_jax.model.pages import PagedBatch, Pages
from owl2_jax.sampling.sampler import (
    MAX_TOP,
    Chosen,
    SamplerInputs,
    SamplerState,
    count,
    empty_state,
    sample,
    told,
)

Array = jax.Array

_SCORED_AT_A_TIME = 32  # tokens of prompts whose logits are made together
_CHOSEN_AT_A_TIME = 8  # rows of a step for prompts, on a CPU


@flax.struct.dataclass
class RowState:
    """What stays on the device for each of R running sequences.

    Attributes:
      tokens: int32[R], the newest token.
      alive: bool[R], whether that token did not end the answer.
      sampler: see `SamplerState`.
    """

    tokens: Array
    alive: Array
    sampler: SamplerState


@flax.struct.dataclass
class StepInputs:
    """A flat batch of T tokens of S rows.

    Attributes:
      tokens: int32[T]; -1 for the newest token of the row, which the host may not know yet.
      feature_rows: int32[T], see `Owl2.step`; None where no token is an image's, as in a step of answers.
      batch: whose tokens they are, and where.
      limits: int32[S], most tokens that a row gets; 0 when its prompt goes on later.
      steps: int32[1], most tokens of any row. Above 1, row i has token i and no other.
      sampler: what the rows ask for.
      targets: int32[T], the token behind each of a prompt whose log-probability is asked for, -1
        for none; None for a step of answers alone.
    """

    tokens: Array
    feature_rows: Array | None
    batch: PagedBatch
    limits: Array
    steps: Array
    sampler: SamplerInputs
    targets: Array | None = None


def empty_inputs(
    tokens: int, rows: int, sequences: int, pages_per_sequence: int, vocab_size: int
) -> StepInputs:
    """Inputs of T tokens and S rows that ask for nothing, as numpy arrays: what a step is compiled with."""
    plain = SamplerRows(sequences, vocab_size, -1)
    return StepInputs(
        tokens=np.zeros(tokens, np.int32),
        feature_rows=np.full(tokens, -1, np.int32),
        batch=PagedBatch(
            rows=np.full(tokens, rows, np.int32),
            positions=np.zeros(tokens, np.int32),
            block_tables=np.zeros((rows, pages_per_sequence), np.int32),
            starts=np.zeros(rows + 1, np.int32),
            lengths=np.zeros(rows, np.int32),
            count=np.zeros(1, np.int32),
            prompt_lengths=np.zeros(rows, np.int32),
        ),
        limits=np.zeros(rows, np.int32),
        steps=np.ones(1, np.int32),
        sampler=plain.take(np.full(rows, sequences, np.int32), np.zeros(rows, np.int32)).replace(
            **plain.unasked(rows)
        ),
    )


def empty_rows(rows: int, vocab_size: int) -> RowState:
    """The state of rows that no sequence has yet."""
    return RowState(jnp.zeros(rows, jnp.int32), jnp.zeros(rows, bool), empty_state(rows, vocab_size))


def step(
    owl: Owl2, width: int, params: Params, pages: Pages, state: RowState, pool: Array, inputs: StepInputs
) -> tuple[Pages, RowState, Chosen, Array, Chosen | None]:
    """Runs the batch, chooses a token for every row with a limit, and goes on with these tokens.

    With targets it does not go on: that is a step for prompts.

    Args:
      width: most steps that a call can do, columns of the result.
      pages, state: donated.
      pool: features of images, dtype[F, Q + 1, D].

    Returns:
      Pages, state, what was chosen, [S, width], int32[S], how many of the columns each row has,
      and the targets, [T].
    """
    rows = inputs.sampler.rows
    newest = state.tokens.at[rows].get(mode="clip")
    of_row = newest.at[inputs.batch.rows].get(mode="clip")
    first = _Carry(
        index=jnp.zeros((), jnp.int32),
        tokens=jnp.where(inputs.tokens < 0, of_row, inputs.tokens),
        feature_rows=inputs.feature_rows,
        batch=inputs.batch,
        # A row that begins with its newest token may have ended with it.
        active=(inputs.limits > 0) & (_has_tokens(inputs) | state.alive.at[rows].get(mode="clip")),
        newest=newest,
        counts=jnp.zeros(rows.shape, jnp.int32),
        sampler=state.sampler,
        pages=pages,
        columns=_empty_columns(rows.shape[0], width),
    )

    def going(carry: _Carry) -> Array:
        return (carry.index == 0) | ((carry.index < inputs.steps[0]) & jnp.any(carry.active))

    def advance(carry: _Carry) -> tuple[_Carry, Array]:
        return _advance(owl, params, pool, inputs, carry)

    if inputs.targets is None:
        last, scored = lax.while_loop(going, lambda carry: advance(carry)[0], first), None
    else:
        last, hidden = advance(first)
        scored = _scored(owl, params, hidden, inputs.targets, inputs.sampler.top)
    chose = inputs.limits > 0
    put = jnp.where(chose, rows, state.tokens.shape[0])
    state = RowState(
        tokens=state.tokens.at[put].set(last.newest, mode="drop"),
        alive=state.alive.at[put].set(last.active, mode="drop"),
        sampler=last.sampler,
    )
    return last.pages, state, last.columns, last.counts, scored


@flax.struct.dataclass
class _Carry:
    index: Array
    tokens: Array
    feature_rows: Array | None
    batch: PagedBatch
    active: Array
    newest: Array
    counts: Array
    sampler: SamplerState
    pages: Pages
    columns: Chosen


def _has_tokens(inputs: StepInputs) -> Array:
    """bool[S]: the host knows the row's first token."""
    first = inputs.tokens.at[inputs.batch.starts[:-1]].get(mode="clip")
    return first >= 0


def _advance(
    owl: Owl2, params: Params, pool: Array, inputs: StepInputs, carry: _Carry
) -> tuple[_Carry, Array]:
    """One pass through the model, and the states of all tokens, dtype[T, D]."""
    batch, settings = carry.batch, inputs.sampler
    variables = {"params": params}
    hidden, pages = owl.apply(
        variables, carry.tokens, pool, carry.feature_rows, carry.pages, batch, method="step"
    )
    last = hidden.at[jnp.maximum(batch.starts[1:] - 1, 0)].get(mode="clip")
    asked = settings.replace(generated=settings.generated + carry.counts)
    if inputs.targets is None:
        chosen = sample(owl.apply(variables, last, method="logits"), asked, carry.sampler)
    else:
        chosen = _choose(owl, variables, last, asked, carry)
    active = carry.active
    columns = jax.tree.map(lambda out, new: out.at[:, carry.index].set(new), carry.columns, chosen)
    counts = carry.counts + active
    ended = jnp.any(chosen.tokens[:, None] == settings.stop_ids, axis=1)
    newest = jnp.where(active, chosen.tokens, carry.newest)
    still = active & ~ended & (counts < inputs.limits)
    tokens, batch = _following(batch, newest, still, carry.tokens.shape[0])
    carry = _Carry(
        index=carry.index + 1,
        tokens=tokens,
        feature_rows=None if carry.feature_rows is None else jnp.full_like(carry.feature_rows, -1),
        batch=batch,
        active=still,
        newest=newest,
        counts=counts,
        sampler=count(carry.sampler, settings, chosen.tokens, active),
        pages=pages,
        columns=columns,
    )
    return carry, hidden


def _choose(owl: Owl2, variables: Params, last: Array, asked: SamplerInputs, carry: _Carry) -> Chosen:
    """The first tokens behind prompts; on a CPU a few rows at a time, up to the last that gets one.

    Most rows of such a step are empty, or their prompts go on later.
    """
    rows = last.shape[0]
    size = min(_CHOSEN_AT_A_TIME, rows)
    on_mesh = not jax.sharding.get_abstract_mesh().empty
    if platforms.current_platform() != "cpu" or on_mesh or rows % size:
        return sample(owl.apply(variables, last, method="logits"), asked, carry.sampler)

    def choose(number: Array, found: Chosen) -> Chosen:
        part, wants = jax.tree.map(
            lambda leaf: lax.dynamic_slice_in_dim(leaf, number * size, size), (last, asked)
        )
        new = sample(owl.apply(variables, part, method="logits"), wants, carry.sampler)
        return jax.tree.map(
            lambda every, some: lax.dynamic_update_slice_in_dim(every, some, number * size, 0), found, new
        )

    until = jnp.max(jnp.where(carry.active, jnp.arange(1, rows + 1), 0))
    nothing = jax.tree.map(lambda column: column[:, 0], _empty_columns(rows, 1))
    return lax.fori_loop(0, (until + size - 1) // size, choose, nothing)


def _scored(owl: Owl2, params: Params, hidden: Array, targets: Array, tops: Array) -> Chosen:
    """How likely the targets int32[T] are behind the states dtype[T, D].

    Logits are made for a few states at a time and for none that nobody asks for: there are many.
    """
    size = targets.shape[0]
    block = min(_SCORED_AT_A_TIME, size)
    wanted = targets >= 0
    places = jnp.where(wanted, jnp.cumsum(wanted) - 1, size + block)
    order = (
        jnp.full(size + block, size, jnp.int32).at[places].set(jnp.arange(size, dtype=jnp.int32), mode="drop")
    )

    def score(number: Array, found: Chosen) -> Chosen:
        at = lax.dynamic_slice(order, (number * block,), (block,))
        logits = owl.apply({"params": params}, hidden.at[at].get(mode="clip"), method="logits")
        new = told(logits, targets.at[at].get(mode="clip"), tops)
        return jax.tree.map(lambda column, part: column.at[at].set(part, mode="drop"), found, new)

    nothing = jax.tree.map(lambda column: column[:, 0], _empty_columns(size, 1))
    return lax.fori_loop(0, (jnp.sum(wanted) + block - 1) // block, score, nothing)


def _following(batch: PagedBatch, newest: Array, active: Array, count: int) -> tuple[Array, PagedBatch]:
    """The batch of the tokens that were chosen: token i is that of row i. Rows that ended write nothing."""
    size = active.shape[0]
    numbers = jnp.arange(size, dtype=jnp.int32)
    more = (0, count - size)
    return jnp.pad(newest, more), batch.replace(
        rows=jnp.pad(jnp.where(active, numbers, size), more, constant_values=size),
        positions=jnp.pad(batch.lengths, more),
        starts=jnp.minimum(jnp.arange(size + 1, dtype=jnp.int32), batch.count[0]),
        lengths=batch.lengths + active,
    )


def _empty_columns(rows: int, width: int) -> Chosen:
    return Chosen(
        tokens=jnp.zeros((rows, width), jnp.int32),
        logprobs=jnp.zeros((rows, width), jnp.float32),
        top_tokens=jnp.zeros((rows, width, MAX_TOP), jnp.int32),
        top_logprobs=jnp.zeros((rows, width, MAX_TOP), jnp.float32),
    )
