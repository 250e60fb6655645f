"""How much of the seeds' spread in a score comes from how few questions were asked.

Two seeds that are equally good get different questions right, and a score over
N questions varies by that alone. If questions were answered independently of
each other, the variance of a seed's mean would be the sum over the questions of
the variance over the seeds, by N squared; what the seeds vary beyond that is
that some are better than others. The first part falls with more questions,
which cost a forward pass, the second with more seeds, which cost a training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.json_files import json_lines
from owl2_jax.sweeps.folder import RunFolder

_PERCENT = 100.0
_EQUAL = 1e-6


@dataclass(frozen=True)
class Sampling:
    """Of one benchmark at one point.

    Attributes:
      variance: of a seed's score by its questions alone, in percent squared.
      questions: asked of every seed.
    """

    variance: float
    questions: int


def sampling_of(runs: Sequence[RunFolder], benchmark: str, scores: Sequence[float]) -> Sampling | None:
    """None for one seed, and where the score in percent is not the mean over questions that all seeds had.

    Args:
      scores: of the runs, in their order.

    Raises:
      Owl2Error: a file of results is damaged.
    """
    if len(runs) < 2:
        return None
    answers = [_answers(run, benchmark) for run in runs]
    ids = [list(one) for one in answers]
    if not ids[0] or any(one != ids[0] for one in ids[1:]):
        return None
    values = _PERCENT * np.array([list(one.values()) for one in answers], np.float64)  # [seeds, questions]
    if not np.allclose(values.mean(1), scores, rtol=0, atol=_EQUAL):
        return None
    count = values.shape[1]
    return Sampling(float(values.var(0, ddof=1).sum()) / count**2, count)


def _answers(run: RunFolder, benchmark: str) -> dict[str, float]:
    """{question: score}; empty where a question has none, as before a judge."""
    path = run.scores / benchmark / "results.jsonl"
    if not path.is_file():
        return {}
    try:
        found = {line["id"]: line["score"] for _, line in json_lines(path)}
        return {} if None in found.values() else {name: float(score) for name, score in found.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise Owl2Error(
            f"{path} holds no results ({type(error).__name__}: {error}); delete {run.scores} and run the "
            "sweep again"
        ) from None
