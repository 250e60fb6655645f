"""Beam search: the answers with the highest total log-probability, adjusted for length.

N unfinished answers are kept per prompt, and the N best finished ones. A step
extends every unfinished answer by every token and keeps the best; what ends in
`</s>`, be it a token or a text, is finished. The search stops when no unfinished
answer can become better than the finished ones. The score of n tokens is their sum
of log-probabilities divided by n**length_penalty (Wu et al. 2016, simplified as
in Hugging Face's generation).

The device makes one step for the answers of several prompts and lists the likeliest
2 N tokens behind each, and as many more as may end a text; the host keeps the scores
(`ranking`). Answers share the pages of what they have in common.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from owl2_jax.beam_search.end_texts import end_table
from owl2_jax.beam_search.program import EXTEND
from owl2_jax.beam_search.ranking import Beam, Search
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import check_value
from owl2_jax.core.ranges import Beams, LengthPenalty
from owl2_jax.inference.detokenizer import Answer
from owl2_jax.inference.engine import Engine
from owl2_jax.inference.flat_batch import Pieces, padded
from owl2_jax.inference.inputs import read_request
from owl2_jax.inference.model_runner import ModelRunner
from owl2_jax.inference.program_sizes import StepSize
from owl2_jax.inference.request import Request, Result
from owl2_jax.inference.scheduler import Chunk
from owl2_jax.inference.sequence import Sequence as Running

Array = jax.Array


def beam_search(
    runner: ModelRunner, requests: Iterable[Request], beams: int, length_penalty: float = 1.0
) -> Iterator[list[Result]]:
    """Searches the best answers of each request, in order.

    Args:
      runner: of which nobody uses rows meanwhile.
      requests: greedy ones, without stop texts.
      beams: N.
      length_penalty: above 0 favours long answers over short ones.

    Yields:
      For each request its N best answers, best first.

    Raises:
      Owl2Error: a request that cannot be answered or is not greedy, or a number out of range.
    """
    check_settings(beams, length_penalty)
    table = end_table(runner.model.tokenizer, runner.model.config.decoder.vocab_size)
    source = (Search(_read(runner, request, beams), beams, length_penalty, table) for request in requests)
    yield from _Searching(runner, beams, _likeliest(beams, table)).run(source)


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
    found = beam_search(engine.runner, sound, beams, length_penalty)
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
    """Pages of a search at its longest, and those of the answers before while answers are copied."""
    shared = len(sequence.prompt) // runner.pool.page_size
    own = runner.pool.pages_for(len(sequence.prompt) + sequence.limit) - shared
    return shared + beams * (own + 1)


class _Searching:
    """Several searches at a time, as many as there are rows and pages for."""

    def __init__(self, runner: ModelRunner, beams: int, likeliest: int):
        self._runner = runner
        self._beams = beams
        self._likeliest = likeliest
        self._most = max(runner.config.sequences // beams, 1)
        ways = runner.sizes.images[0]
        rows = (-(-count * beams // ways) * ways for count in (1, self._most))
        self._sizes = [StepSize(count, count) for count in rows]
        self._active: list[Search] = []

    def run(self, source: Iterator[Search]) -> Iterator[list[Result]]:
        order: deque[Search] = deque()
        following = next(source, None)
        try:
            while following is not None or order:
                new = []
                while following is not None and self._has_room(following.sequence):
                    new.append(following)
                    self._active.append(following)
                    following = next(source, None)
                self._admit(new)
                order += new
                self._step()
                while order and not order[0].going:
                    yield self._results(order.popleft())
        finally:
            for search in self._active:
                for beam in search.running:
                    self._runner.pool.release(beam.pages, lambda page: False)

    def _has_room(self, sequence: Running) -> bool:
        held = sum(_most_pages(self._runner, one.sequence, self._beams) for one in self._active)
        needed = _most_pages(self._runner, sequence, self._beams)
        return len(self._active) < self._most and held + needed <= self._runner.pool.count

    def _admit(self, searches: Sequence[Search]) -> None:
        """Runs prompts but for their last positions."""
        runner, size = self._runner, self._runner.sizes.chunks[-1]
        for row, search in enumerate(searches):
            sequence, (beam,) = search.sequence, search.running
            beam.pages = runner.pool.take(runner.pool.pages_for(sequence.length))
            sequence.row, sequence.pages = row, beam.pages
            runner.admit(sequence)
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

    def _step(self) -> None:
        """One more token of every answer."""
        runner, eos_id = self._runner, self._runner.model.tokenizer.eos_id
        runner.features.make_ready(image for one in self._active for image in _image_at_end(one))
        copies: list[tuple[int, int]] = []
        found = jax.device_get(self._extend())
        start, going = 0, []
        for search in self._active:
            end = start + len(search.running)
            logprobs, tokens = (part[start:end] for part in found)
            before = search.running
            parents = search.advance(logprobs, tokens, eos_id)
            if search.going:
                copies += self._give_pages(search, before, parents)
                going.append(search)
            for beam in before:
                runner.pool.release(beam.pages, lambda page: False)
            start = end
        self._active = going
        if copies:
            runner.copy_pages(copies)

    def _extend(self) -> tuple[Array, Array]:
        """Log-probabilities and tokens, [S, C] each, of all answers, search after search."""
        runner = self._runner
        rows = [(search, beam) for search in self._active for beam in search.running]
        size = next(size for size in self._sizes if size.rows >= len(rows))
        ends = np.array([one.sequence.length + len(beam.tokens) for one, beam in rows], np.int32)
        newest = [
            beam.tokens[-1] if beam.tokens else one.sequence.tokens[end - 1]
            for (one, beam), end in zip(rows, ends, strict=True)
        ]
        prompts = np.array([one.sequence.length for one, _ in rows], np.int32)
        pieces = Pieces(ends - 1, ends, np.array(newest, np.int32), None, prompts)
        features = [
            -1 if beam.tokens else runner.features_of(one.sequence, end - 1, end)[0]
            for (one, beam), end in zip(rows, ends.tolist(), strict=True)
        ]
        tables = np.zeros((size.rows, runner.sizes.pages_per_sequence), np.int32)
        early = np.zeros(size.rows, bool)
        for row, (one, beam) in enumerate(rows):
            tables[row, : len(beam.pages)] = beam.pages
            early[row] = len(beam.tokens) < one.sequence.request.min_new_tokens
        runner.used.add(("beams", size.rows, self._beams))
        with runner.on_mesh():
            runner.pages, logprobs, tokens = EXTEND(
                runner.owl, runner.model.tokenizer.eos_id, self._likeliest, runner.params, runner.pages,
                runner.features.array, padded(pieces.tokens, size.tokens), padded(features, size.tokens, -1),
                pieces.batch(size, tables), early,
            )  # fmt: skip
        return logprobs, tokens

    def _give_pages(
        self, search: Search, before: Sequence[Beam], parents: Sequence[int]
    ) -> list[tuple[int, int]]:
        """Pages for the answers that go on: those of what they extend, and one for the next token."""
        pool, copies = self._runner.pool, []
        positions = search.sequence.length + search.length - 1  # that have keys and values
        kept: set[int] = set()
        for beam, parent in zip(search.running, parents, strict=True):
            if parent not in kept:  # the first takes over what the others copy
                kept.add(parent)
                beam.pages = before[parent].pages
                for page in beam.pages:
                    pool.share(page)
            else:
                beam.pages, more = pool.fork(before[parent].pages, positions)
                copies += more
        for beam in search.running:
            if positions % pool.page_size == 0:
                beam.pages = [*beam.pages, *pool.take(1)]
        return copies

    def _results(self, search: Search) -> list[Result]:
        """Read as answers that grow: they end where such a one would."""
        results = []
        for beam in search.finished:
            answer = Answer(
                search.sequence.request, self._runner.model.tokenizer, len(search.sequence.prompt)
            )
            answer.extend(_Chosen(np.array(beam.tokens), np.array(beam.logprobs)))
            answer.end("length")
            answer.result.seconds = time.perf_counter() - search.began
            results.append(answer.result)
        return results


@dataclass(frozen=True)
class _Chosen:
    """What `Answer.extend` reads of `sampler.Chosen`."""

    tokens: np.ndarray
    logprobs: np.ndarray


def _image_at_end(search: Search) -> list[Any]:
    """Images whose features the last position of a prompt needs, which runs in the first step."""
    prompt = search.sequence.prompt
    if search.length or not prompt.images or prompt.image_starts[-1] + prompt.span < len(prompt):
        return []
    return prompt.images[-1:]
