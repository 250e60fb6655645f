"""Which answers of one search go on, and which are the best finished ones, on the device.

N answers are extended by C tokens each; the best N of what has not ended go on. An answer
that has ended is known by its last token and by which answer it extends: the host follows
these back through the steps to its first token.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array


@flax.struct.dataclass
class Finished:
    """The N best finished answers, best first.

    Attributes:
      scores: float32[N], divided sums of log-probabilities; -inf where there is none.
      steps: int32[N], before the last token.
      parents: int32[N], which of the answers before the last step each extends.
      tokens, logprobs: int32[N] and float32[N], the last.
    """

    scores: Array
    steps: Array
    parents: Array
    tokens: Array
    logprobs: Array


@flax.struct.dataclass
class Answers:
    """The answers of a search.

    Attributes:
      scores: float32[N], sums of log-probabilities of the unfinished, best first; -inf where there is none.
      written: int32[N], how much of a text that ends answers each ends with; see `end_texts`.
      made: int32[], tokens of the unfinished.
      going: bool[], whether an unfinished answer may become better than the finished ones.
      finished: the best that have ended.
    """

    scores: Array
    written: Array
    made: Array
    going: Array
    finished: Finished


@flax.struct.dataclass
class Grown:
    """How the unfinished answers came to be.

    Attributes:
      parents: int32[N], which of the answers before each extends.
      tokens, logprobs: int32[N] and float32[N], what was added.
    """

    parents: Array
    tokens: Array
    logprobs: Array


@flax.struct.dataclass
class Rules:
    """What a search was asked for.

    Attributes:
      limit, floor: int32[], most and fewest tokens of an answer.
      divisors: float32[L], of the sum of an answer of so many tokens.
    """

    limit: Array
    floor: Array
    divisors: Array


def empty(beams: int) -> Answers:
    """Before the first token, as numpy arrays: all answers are the same, and one is extended."""
    none, nothing = np.full(beams, -np.inf, np.float32), np.zeros(beams, np.int32)
    finished = Finished(none, nothing, nothing, nothing, np.zeros(beams, np.float32))
    scores = np.where(np.arange(beams) == 0, np.float32(0), none)
    return Answers(scores, nothing, np.zeros((), np.int32), np.ones((), bool), finished)


def divisors(longest: int, length_penalty: float) -> np.ndarray:
    """`Rules.divisors` for answers of up to `longest` tokens."""
    return np.arange(longest + 1, dtype=np.float32) ** np.float32(length_penalty)


def advance(
    answers: Answers, logprobs: Array, tokens: Array, rules: Rules, eos_id: int, end_table: Array | None
) -> tuple[Answers, Grown]:
    """Extends unfinished answers by their likeliest tokens.

    Args:
      logprobs, tokens: float32[N, C] and int32[N, C], best first; -inf for what may not come.
      end_table: of `end_texts`, int32[S, V], or None.
    """
    beams = logprobs.shape[0]
    totals = (answers.scores[:, None] + logprobs).reshape(-1)
    # What ends is at most one token of each answer, `</s>`, and with texts any of those listed.
    most = totals.size if end_table is not None else min(2 * beams, totals.size)
    totals, places = lax.top_k(totals, most)
    found = Grown(places // logprobs.shape[1], tokens.reshape(-1)[places], logprobs.reshape(-1)[places])
    made = answers.made + 1
    written, whole = _written(answers.written[found.parents], found.tokens, made >= rules.floor, end_table)
    real, ends = totals > -jnp.inf, (found.tokens == eos_id) | whole
    # The best N that go on, in their order.
    order = jnp.where(real & ~ends, -jnp.arange(most, dtype=jnp.int32), -most)
    first, kept = lax.top_k(order, min(beams, most))
    grown = jax.tree.map(lambda part: _filled(part[kept], beams), found)
    scores = _filled(jnp.where(first > -most, totals[kept], -jnp.inf), beams, -jnp.inf)
    ended = jnp.where(real & ends & (jnp.arange(most) < 2 * beams), totals, -jnp.inf)
    at_limit = jnp.where(made == rules.limit, scores, -jnp.inf)
    finished = _best(
        answers.finished, [(ended, found), (at_limit, grown)], answers.made, rules.divisors[made]
    )
    # Every further token lowers the sum; only the divisor can still help.
    reachable = scores[0] / rules.divisors[rules.limit]
    going = (scores[0] > -jnp.inf) & (made < rules.limit) & (reachable > finished.scores[-1])
    return Answers(scores, _filled(written[kept], beams), made, going, finished), grown


def _written(before: Array, tokens: Array, counts: Array, table: Array | None) -> tuple[Array, Array]:
    """`Answers.written` after tokens, and whether a text is whole with each; what must come begins none."""
    if table is None:
        return before, jnp.zeros(tokens.shape, bool)
    written = jnp.where(counts, table[before, tokens].astype(jnp.int32), 0)
    return jnp.where(written == table.shape[0], 0, written), written == table.shape[0]


def _best(before: Finished, more: list[tuple[Array, Grown]], steps: Array, divisor: Array) -> Finished:
    """The best of the finished answers, of equals the first."""
    new = [
        Finished(sums / divisor, jnp.full(sums.shape, steps), one.parents, one.tokens, one.logprobs)
        for sums, one in more
    ]
    every = jax.tree.map(lambda *parts: jnp.concatenate(parts), before, *new)
    places = lax.top_k(every.scores, before.scores.shape[0])[1]
    return jax.tree.map(lambda part: part[places], every)


def _filled(part: Array, size: int, filler: float = 0) -> Array:
    return jnp.pad(part, (0, size - part.shape[0]), constant_values=filler)
