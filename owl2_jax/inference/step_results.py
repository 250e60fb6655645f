"""What the device chose in a step, handed to the sequences that it is for."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from owl2_jax.inference.scheduler import Chunk, Plan
from owl2_jax.inference.sequence import Sequence
from owl2_jax.sampling.sampler import Chosen
from owl2_jax.structured.matcher import Matcher


def parts_of(
    plan: Plan,
    first: tuple[Chosen, np.ndarray, Chosen | None] | None,
    rest: tuple[Chosen, np.ndarray] | None,
) -> list[tuple[Sequence, Chosen]]:
    """The new tokens of every sequence of a plan; sequences get the scores of their prompts.

    Answers of a given form are followed in a thread from here on.

    Args:
      first: of `ModelRunner.run_chunks`, None when no chunk ran.
      rest: of `ModelRunner.decode`, None when nothing was decoded.
    """
    parts = []
    if first is not None:
        chosen, counts, scored = first
        parts += [
            (chunk.sequence, _part(chosen, row, counts[row]))
            for row, chunk in enumerate(plan.chunks)
            if chunk.last
        ]
        _take_scores(plan.chunks, scored)
    if rest is not None:
        chosen, counts = rest
        parts += [(one, _part(chosen, row, counts[row])) for row, one in enumerate(plan.decoding)]
    # Where nothing may come, what came anyway is no token of the answer.
    parts = [(sequence, part) for sequence, part in parts if not sequence.failed]
    _follow(parts)
    return parts


def _part(chosen: Chosen, row: int, count: int) -> Chosen:
    """The first `count` tokens of a row."""
    return Chosen(
        *(
            column[row, :count]
            for column in (chosen.tokens, chosen.logprobs, chosen.top_tokens, chosen.top_logprobs)
        )
    )


def _take_scores(chunks: Iterable[Chunk], scored: Chosen | None) -> None:
    """Gives sequences what they asked for of their prompts: of scored, [T], chunk after chunk, or None."""
    start = 0
    for chunk in chunks:
        end = start + chunk.end - chunk.start
        if chunk.sequence.request.prompt_logprobs:
            chunk.sequence.take_scores(chunk.start, chunk.end, scored, start)
        start = end


def _follow(parts: Iterable[tuple[Sequence, Chosen]]) -> None:
    """Has a thread find what may follow in answers of a given form, which get one token in a step."""
    walks = [(one.matcher, int(part.tokens[-1])) for one, part in parts if one.matcher and len(part.tokens)]
    if walks:
        Matcher.advance_all(*zip(*walks, strict=True))
