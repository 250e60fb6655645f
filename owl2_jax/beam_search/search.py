"""Beam search: the answers with the highest total log-probability, adjusted for length.

N unfinished answers are kept per prompt, and the N best finished ones. A step
extends every unfinished answer by every token and keeps the best; what ends in
`</s>`, be it a token or a text, is finished. The search stops when no unfinished
answer can become better than the finished ones. The score of n tokens is their sum
of log-probabilities divided by n**length_penalty (Wu et al. 2016, simplified as
in Hugging Face's generation).

The device does some steps for the answers of several prompts (`program`): it lists the
likeliest 2 N tokens behind each, and as many more as may end a text, and chooses who goes
on (`ranking`). The host keeps what was chosen in each step and reads answers from it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from owl2_jax.beam_search.end_texts import end_table
from owl2_jax.beam_search.one_search import OneSearch
from owl2_jax.beam_search.program import EXTEND, CallInputs, Searches
from owl2_jax.beam_search.ranking import Rules, divisors, empty
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import check_value
from owl2_jax.core.ranges import Beams, LengthPenalty
from owl2_jax.inference.detokenizer import Answer
from owl2_jax.inference.engine import Engine
from owl2_jax.inference.held_prompt import NoPagesError
from owl2_jax.inference.inputs import read_request
from owl2_jax.inference.model_runner import ModelRunner
from owl2_jax.inference.packed import pack
from owl2_jax.inference.request import Request, Result
from owl2_jax.inference.scheduler import Chunk
from owl2_jax.inference.sequence import Sequence as Running


def beam_search(
    runner: ModelRunner,
    requests: Iterable[Request],
    beams: int,
    length_penalty: float = 1.0,
    told: int | None = None,
) -> Iterator[list[Result]]:
    """Searches the best answers of each request, in order.

    Args:
      runner: of which nobody uses rows meanwhile.
      requests: greedy ones, without stop texts.
      beams: N.
      length_penalty: above 0 favours long answers over short ones.
      told: how many of the best to read; None for all.

    Yields:
      For each request its N best answers, or so many as are to be told, best first.

    Raises:
      Owl2Error: a request that cannot be answered or is not greedy, a number out of range, or
        pages that are not free just now.
    """
    check_settings(beams, length_penalty)
    table = end_table(runner.model.tokenizer, runner.model.config.decoder.vocab_size)
    source = (OneSearch(_read(runner, request, beams)) for request in requests)
    yield from _Searching(runner, beams, length_penalty, table, told or beams).run(source)


def _likeliest(beams: int, table: np.ndarray | None) -> int:
    """C, tokens to list behind each answer: N that go on must be among them, however many end it."""
    return 2 * beams + (0 if table is None else int((table == len(table)).sum(axis=1).max()))


def beam_answers(
    engine: Engine, requests: Sequence[Request], beams: int, length_penalty: float
) -> Iterator[Result | Owl2Error]:
    """The best answer, or what is wrong with the request, for each request in order."""
    check_settings(beams, length_penalty)
    errors = {n: error for n, request in enumerate(requests) if (error := _fault(engine, request, beams))}
    sound = (request for n, request in enumerate(requests) if n not in errors)
    found = beam_search(engine.runner, sound, beams, length_penalty, told=1)
    for number in range(len(requests)):
        yield errors[number] if number in errors else next(found)[0]


def _fault(engine: Engine, request: Request, beams: int) -> Owl2Error | None:
    """Why a request cannot be searched for, found before any search begins; None when it can."""
    error = engine.fault(request)
    if error is None:
        try:
            _read(engine.runner, request, beams)
        except Owl2Error as found:
            error = found
    return error


def check_settings(beams: int, length_penalty: float) -> None:
    """Raises `Owl2Error` for numbers out of range."""
    check_value(Beams, beams, "beams")
    check_value(LengthPenalty, length_penalty, "length_penalty")


def _read(runner: ModelRunner, request: Request, beams: int) -> Running:
    shaped = request.stop_token_ids or request.ignore_eos or request.structured
    if not request.sampling.plain or request.stop or request.top_logprobs or shaped:
        raise Owl2Error(
            "beam search takes no sampling settings, stop texts or tokens, forms or listed tokens; "
            "leave them out"
        )
    prompt = read_request(request, runner.model)
    room = runner.model.config.decoder.max_length - len(prompt)
    answer = Answer(request, runner.model.tokenizer, len(prompt))
    sequence = Running(0, request, prompt, min(request.max_new_tokens or room, room), answer)
    needed, held = _most_pages(runner, sequence, beams), runner.pool.count
    if needed > held:
        raise Owl2Error(
            f"{beams} beams of a prompt of {len(prompt)} positions and {sequence.limit} tokens need {needed} "
            f"pages of the cache, which has {held}; search fewer beams or shorter answers, or give a larger "
            "cache (--cache-mib)"
        )
    return sequence


def _most_pages(runner: ModelRunner, sequence: Running, beams: int) -> int:
    """Pages of a search: those that its prompt fills, and every answer's own."""
    whole = len(sequence.prompt) // runner.pool.page_size
    own = runner.pool.pages_for(len(sequence.prompt) + sequence.limit) - whole
    return whole + beams * own


class _Searching:
    """Several searches at a time, as many as there are rows and pages for."""

    def __init__(self, runner: ModelRunner, beams: int, length_penalty: float, table: Any, told: int):
        self._runner = runner
        self._told = told
        self._beams = beams
        self._likeliest = _likeliest(beams, table)
        self._table = None if table is None else jnp.asarray(table)
        self._divisors = divisors(runner.model.config.decoder.max_length, length_penalty)
        self._most = max(runner.config.sequences // beams, 1)
        ways = runner.sizes.images[0]
        whole = ways // math.gcd(ways, beams)  # searches whose rows divide over a mesh
        self._sizes = [-(-count // whole) * whole for count in (1, self._most)]
        self._active: list[OneSearch] = []
        self._state: Searches | None = None  # of the active ones, as the last call left them

    def run(self, source: Iterator[OneSearch]) -> Iterator[list[Result]]:
        order: deque[OneSearch] = deque()
        following = next(source, None)
        try:
            while following is not None or order:
                new = []
                while following is not None and self._take_pages(following):
                    new.append(following)
                    self._active.append(following)
                    following = next(source, None)
                if not self._active:
                    raise NoPagesError("all pages of the cache are in use; search when fewer answers run")
                self._admit(new)
                order += new
                self._step(following is not None)
                while order and order[0].finished is not None:
                    yield order.popleft().results(self._runner.model.tokenizer, self._told)
        finally:
            self._release(self._active)

    def _take_pages(self, search: OneSearch) -> bool:
        """Whether there was room for one search more."""
        pool, sequence, pages = self._runner.pool, search.sequence, None
        if len(self._active) < self._most:
            pages = pool.take(_most_pages(self._runner, sequence, self._beams))
        if pages is not None:
            search.pages, sequence.pages = pages, pages[: pool.pages_for(sequence.length)]
        return pages is not None

    def _release(self, searches: Iterable[OneSearch]) -> None:
        for search in searches:
            self._runner.pool.release(search.pages, lambda page: False)

    def _admit(self, searches: Sequence[OneSearch]) -> None:
        """Runs prompts but for their last positions."""
        runner, size = self._runner, self._runner.sizes.chunks[-1]
        for row, search in enumerate(searches):
            search.sequence.row = row
            runner.admit(search.sequence)
        waiting = deque(one.sequence for one in searches if one.sequence.length > 1)
        while waiting:
            chunks, left = [], size.tokens
            while waiting and left and len(chunks) < min(size.rows, runner.sizes.features):
                sequence = waiting[0]
                end = min(sequence.computed + left, sequence.length - 1)
                chunks.append(Chunk(sequence, sequence.computed, end, last=False))
                left -= end - sequence.computed
                sequence.computed = end
                if end < sequence.length - 1:
                    break
                waiting.popleft()
            runner.run_chunks(chunks)
        if searches:
            begun = [self._begin(search) for search in searches]
            parts = [] if self._state is None else [self._state]
            self._state = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts, *begun)

    def _begin(self, search: OneSearch) -> Searches:
        """A search before its first step, with 1 in front of every shape."""
        runner, beams, sequence = self._runner, self._beams, search.sequence
        length = sequence.length
        runner.features.make_ready(_image_at_end(sequence))
        one = np.ones(1, np.int32)
        return Searches(
            answers=jax.tree.map(lambda leaf: leaf[None], empty(beams)),
            rules=Rules(sequence.limit * one, sequence.request.min_new_tokens * one, None),
            tokens=np.full((1, beams), sequence.tokens[length - 1], np.int32),
            features=runner.features_of(sequence, length - 1, length),
            tables=self._tables(length, search.pages),
            lengths=length * one,
            prompt_lengths=length * one,
        )

    def _tables(self, length: int, pages: Sequence[int]) -> np.ndarray:
        """int32[1, N, W]: the prompt's whole pages for all answers, and behind them each its own."""
        whole = length // self._runner.pool.page_size
        own = np.array(pages[whole:], np.int32).reshape(self._beams, -1)
        tables = np.zeros((1, self._beams, self._runner.sizes.pages_per_sequence), np.int32)
        tables[0, :, :whole] = pages[:whole]
        tables[0, :, whole : whole + own.shape[1]] = own
        return tables

    def _step(self, others_wait: bool) -> None:
        """Some more tokens of every answer; fewer where others wait for the room of those that end."""
        runner, count = self._runner, len(self._active)
        size = next(size for size in self._sizes if size >= count)
        state = jax.tree.map(lambda leaf: _filled_up(leaf, size), self._state)
        state = state.replace(rules=state.rules.replace(divisors=self._divisors))
        # The last one goes on in the program of one.
        enough = -(-count // 2) if others_wait else max(count - 1, 1)
        inputs = CallInputs(state, np.array([enough], np.int32))
        buffer, layout = pack(inputs)
        runner.used.add(("beams", size, self._beams))
        with runner.on_mesh():
            runner.pages, *found = EXTEND(
                runner.owl, runner.model.tokenizer.eos_id, self._likeliest, layout, runner.params,
                runner.pages, runner.features.array, self._table, buffer,
            )  # fmt: skip
        state, trail = jax.device_get(found)
        before, made = self._state.answers.made, state.answers.made
        for number, search in enumerate(self._active):
            search.steps += [(trail, step, number) for step in range(made[number] - before[number])]
            if not state.answers.going[number]:
                search.finished = jax.tree.map(lambda part, at=number: part[at], state.answers.finished)
        self._release(one for one in self._active if one.finished is not None)
        self._active = [one for one in self._active if one.finished is None]
        state = state.replace(rules=state.rules.replace(divisors=None))
        going = np.flatnonzero(state.answers.going[:count])
        self._state = jax.tree.map(lambda leaf: leaf[going], state)


def _filled_up(leaf: np.ndarray, size: int) -> np.ndarray:
    """With zeros in place of the searches that are missing, which are not going."""
    return np.concatenate([leaf, np.zeros((size - len(leaf), *leaf.shape[1:]), leaf.dtype)])


def _image_at_end(sequence: Running) -> list[Any]:
    """Images whose features the last position of a prompt needs, which runs in the first step."""
    prompt = sequence.prompt
    if not prompt.images or prompt.image_starts[-1] + prompt.span < len(prompt):
        return []
    return prompt.images[-1:]
