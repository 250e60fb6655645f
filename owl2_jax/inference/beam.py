"""Beam search: the answers with the highest total log-probability, adjusted for length.

N unfinished answers are kept per prompt, and the N best finished ones. A step
extends every unfinished answer by every token and keeps the best; what ends in
`</s>` is finished. The search stops when no unfinished answer can become
better than the finished ones. The score of n tokens is their sum of
log-probabilities divided by n**length_penalty (Wu et al. 2016, simplified as
in Hugging Face's generation).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import check_value
from owl2_jax.core.ranges import Beams, LengthPenalty
from owl2_jax.inference.buckets import power_of_two
from owl2_jax.inference.engine import Engine
from owl2_jax.inference.inputs import Prompt, pad_column, read_request
from owl2_jax.inference.model_runner import ModelRunner
from owl2_jax.inference.prompt_batches import in_batches, stack
from owl2_jax.inference.request import Request, Result
from owl2_jax.inference.whole_prompts import Prompts, run_prompts
from owl2_jax.model.cache import Cache
from owl2_jax.model.owl2 import Owl2

Array = jax.Array

_NEVER = -1e30  # score of what is no answer
_DEAD = -1e20  # no answer is as unlikely, and what was extended from none is below


@flax.struct.dataclass
class Hypotheses:
    """N answers for each of R prompts.

    Attributes:
      tokens: int32[R, N, W].
      logprobs: float32[R, N, W], of each token.
      lengths: int32[R, N].
      scores: float32[R, N], best first once the search has ended.
    """

    tokens: Array
    logprobs: Array
    lengths: Array
    scores: Array


def search(
    owl: Owl2,
    eos_id: int,
    params: Any,
    pool: Array | None,
    prompts: Prompts,
    limits: Array,
    floors: Array,
    length_penalty: Array,
    *,
    beams: int,
    width: int,
) -> Hypotheses:
    """Runs the whole search on the device.

    Args:
      pool: features of images, dtype[F, Q + 1, D], or None.
      limits, floors: int32[R], most and fewest tokens of an answer.
      length_penalty: float32[], 0 or more.
      beams: N.
      width: W, at least the largest limit.
    """
    last, cache = run_prompts(owl, params, pool, prompts, prompts.tokens.shape[1] + width)
    rows = last.shape[0]
    cache = _take_rows(cache, jnp.repeat(jnp.arange(rows), beams))
    running, finished = _empty(rows, beams, width), _empty(rows, beams, width)
    # All beams are the same at first; only one may be extended.
    running = running.replace(scores=running.scores.at[:, 0].set(0.0))

    def going(carry: tuple[Array, Array, Cache, Hypotheses, Hypotheses]) -> Array:
        step, _, _, running, finished = carry
        # Every further token lowers the sum; only the divisor can still help.
        reachable = running.scores.max(axis=1) / limits.astype(jnp.float32) ** length_penalty
        return jnp.any((step < limits) & (reachable > finished.scores.min(axis=1)))

    def advance(carry: tuple[Array, Array, Cache, Hypotheses, Hypotheses]) -> Any:
        step, state, cache, running, finished = carry
        logits = owl.apply({"params": params}, state, method="logits")
        logprobs = jax.nn.log_softmax(logits, axis=-1).reshape(rows, beams, -1)
        early = (step + 1 <= floors)[:, None]
        logprobs = logprobs.at[:, :, eos_id].set(jnp.where(early, _NEVER, logprobs[:, :, eos_id]))
        candidates, parents = _extend(running, logprobs, step)
        ends = (candidates.tokens[:, :, step] == eos_id) & (step < limits)[:, None]
        finished = _best(_join(finished, _normalized(candidates, ends, length_penalty)), beams)[0]
        running, kept = _best(_unless(candidates, ends | (step >= limits)[:, None]), beams)
        parents = jnp.take_along_axis(parents, kept, axis=1)
        cache = _take_rows(cache, (parents + beams * jnp.arange(rows)[:, None]).reshape(-1))
        tokens = running.tokens[:, :, step].reshape(-1, 1)
        hidden, cache = owl.apply({"params": params}, tokens, cache, method="extend")
        # What reached its limit stands beside the finished ones, and goes no further.
        full = jnp.broadcast_to((step + 1 == limits)[:, None], running.scores.shape)
        finished = _best(_join(finished, _normalized(running, full, length_penalty)), beams)[0]
        return step + 1, hidden[:, 0], cache, running, finished

    state = jnp.repeat(last, beams, axis=0)
    carry = (jnp.zeros((), jnp.int32), state, cache, running, finished)
    return lax.while_loop(going, advance, carry)[-1]


_SEARCH = jax.jit(search, static_argnums=(0, 1), static_argnames=("beams", "width"))


def _extend(running: Hypotheses, logprobs: Array, step: Array) -> tuple[Hypotheses, Array]:
    """The 2 N best ways to add a token, best first, and int32[R, 2 N], which beam each extends."""
    rows, beams, vocabulary = logprobs.shape
    totals = (running.scores[:, :, None] + logprobs).reshape(rows, -1)
    scores, places = lax.top_k(totals, 2 * beams)
    parents, tokens = places // vocabulary, places % vocabulary
    chosen = jnp.take_along_axis(logprobs.reshape(rows, -1), places, axis=1)
    grown = _pick(running, parents)
    return grown.replace(
        tokens=grown.tokens.at[:, :, step].set(tokens),
        logprobs=grown.logprobs.at[:, :, step].set(chosen),
        lengths=grown.lengths + 1,
        scores=scores,
    ), parents


def _normalized(candidates: Hypotheses, which: Array, length_penalty: Array) -> Hypotheses:
    """Final scores of the chosen answers; the others fall out of every comparison."""
    scores = candidates.scores / candidates.lengths.astype(jnp.float32) ** length_penalty
    return candidates.replace(scores=jnp.where(which & (candidates.scores > _DEAD), scores, _NEVER))


def _unless(candidates: Hypotheses, which: Array) -> Hypotheses:
    return candidates.replace(scores=jnp.where(which, _NEVER, candidates.scores))


def _best(candidates: Hypotheses, count: int) -> tuple[Hypotheses, Array]:
    """The best of each row, and int32[R, count], where they stood."""
    _, places = lax.top_k(candidates.scores, count)
    return _pick(candidates, places), places


def _pick(hypotheses: Hypotheses, places: Array) -> Hypotheses:
    def pick(values: Array) -> Array:
        index = places.reshape(places.shape + (1,) * (values.ndim - 2))
        return jnp.take_along_axis(values, index, axis=1)

    return jax.tree.map(pick, hypotheses)


def _join(one: Hypotheses, other: Hypotheses) -> Hypotheses:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), one, other)


def _empty(rows: int, beams: int, width: int) -> Hypotheses:
    return Hypotheses(
        tokens=jnp.zeros((rows, beams, width), jnp.int32),
        logprobs=jnp.zeros((rows, beams, width), jnp.float32),
        lengths=jnp.zeros((rows, beams), jnp.int32),
        scores=jnp.full((rows, beams), _NEVER, jnp.float32),
    )


def _take_rows(cache: Cache, rows: Array) -> Cache:
    keys, values = jax.tree.map(lambda part: part[:, rows], (cache.keys, cache.values))
    return Cache(keys, values, cache.lengths[rows], cache.prompt_lengths[rows])


@dataclass
class _Task:
    request: Request
    prompt: Prompt
    limit: int


def beam_search(
    runner: ModelRunner, requests: Iterable[Request], beams: int, length_penalty: float = 1.0
) -> Iterator[list[Result]]:
    """Searches the best answers of each request, in order.

    Args:
      runner: its model and image features are used, not its pages.
      requests: greedy ones, without stop texts.
      beams: N.
      length_penalty: above 0 favours long answers over short ones.

    Yields:
      For each request its N best answers, best first.

    Raises:
      Owl2Error: a request that cannot be answered or is not greedy, or a number out of range.
    """
    check_settings(beams, length_penalty)

    def work(runner: ModelRunner, tasks: list[_Task]) -> list[list[Result]]:
        return _search(runner, tasks, beams, length_penalty)

    yield from in_batches(runner, (_read(runner, r) for r in requests), lambda task: task.prompt, work)


def beam_answers(
    engine: Engine, requests: Sequence[Request], beams: int, length_penalty: float
) -> Iterator[Result | Owl2Error]:
    """The best answer, or what is wrong with the request, for each request in order."""
    errors = {n: error for n, request in enumerate(requests) if (error := engine.fault(request))}
    sound = (request for n, request in enumerate(requests) if n not in errors)
    found = beam_search(engine.runner, sound, beams, length_penalty)
    for number in range(len(requests)):
        yield errors[number] if number in errors else next(found)[0]


def check_settings(beams: int, length_penalty: float) -> None:
    """Raises `Owl2Error` for numbers out of range."""
    check_value(Beams, beams, "beams")
    check_value(LengthPenalty, length_penalty, "length_penalty")


def _read(runner: ModelRunner, request: Request) -> _Task:
    shaped = request.stop_token_ids or request.ignore_eos or request.structured
    if not request.sampling.plain or request.stop or request.top_logprobs or shaped:
        raise Owl2Error(
            "beam search takes no sampling settings, stop texts or tokens, forms or listed tokens; "
            "leave them out"
        )
    prompt = read_request(request, runner.model)
    room = runner.model.config.decoder.max_length - len(prompt)
    return _Task(request, prompt, min(request.max_new_tokens or room, room))


def _search(runner: ModelRunner, tasks: list[_Task], beams: int, length_penalty: float) -> list[list[Result]]:
    stacked, pool = stack(runner, [task.prompt for task in tasks])
    padding = stacked.tokens.shape[0] - len(tasks)
    width = power_of_two(max(task.limit for task in tasks))
    runner.used.add(("beam_search", stacked.tokens.shape, stacked.image_index.shape, beams, width))
    with runner.on_mesh():
        found = _SEARCH(
            runner.owl,
            runner.model.tokenizer.eos_id,
            runner.params,
            pool,
            stacked,
            pad_column([task.limit for task in tasks], padding, 1),
            pad_column([task.request.min_new_tokens for task in tasks], padding, 0),
            np.float32(length_penalty),
            beams=beams,
            width=width,
        )
    found = jax.device_get(found)
    return [
        _results(runner, task, jax.tree.map(lambda part, n=n: part[n], found)) for n, task in enumerate(tasks)
    ]


def _results(runner: ModelRunner, task: _Task, found: Hypotheses) -> list[Result]:
    tokenizer = runner.model.tokenizer
    results = []
    for tokens, logprobs, length, score in zip(
        found.tokens, found.logprobs, found.lengths, found.scores, strict=True
    ):
        if score < _DEAD:  # fewer answers exist than beams
            continue
        ids: Sequence[int] = tokens[:length].tolist()
        results.append(
            Result(
                text=_until_end(tokenizer.decode_answer(ids), tokenizer.end_texts),
                token_ids=list(ids),
                logprobs=logprobs[:length].tolist(),
                finish_reason="stop" if ids[-1] == tokenizer.eos_id else "length",
                prompt_tokens=len(task.prompt),
            )
        )
    return results


def _until_end(text: str, end_texts: Sequence[str]) -> str:
    """The text before the first of these; a beam goes on behind them, as they are no token."""
    places = [place for place in map(text.find, end_texts) if place >= 0]
    return text[: min(places)] if places else text
