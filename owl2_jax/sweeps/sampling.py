"""How much of the seeds' spread in a score comes from how few questions were asked.

Two seeds that are equally good get different questions right, and a score over
N questions varies by that alone. If questions were answered independently of
each other, the variance of a seed's mean would be the sum over the questions of
the variance over the seeds, by N squared; what the seeds vary beyond that is
that some are better than others. The first part falls with more questions,
which cost a forward pass, the second with more seeds, which cost a training.
Of a difference it is the same with each question's difference, as seeds and questions are pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.json_files import json_lines
from owl2_jax.sweeps.folder import RunFolder

_PERCENT = 100.0
_EQUAL = 1e-6


@dataclass(frozen=True)
class Answers:
    """Of one benchmark at one point.

    Attributes:
      ids: of N questions.
      scores: {seed: float64[N], in percent}.
    """

    ids: tuple[str, ...]
    scores: dict[int, np.ndarray]

    def sampled(self) -> float | None:
        """Variance of a seed's score by its questions alone, in percent squared; None for one seed."""
        return _by_questions(list(self.scores.values()))

    def sampled_with(self, base: Answers) -> float | None:
        """The same of a seed's difference to `base`; None for other questions or no two seeds in common."""
        if self.ids != base.ids:
            return None
        return _by_questions(
            [self.scores[seed] - base.scores[seed] for seed in self.scores if seed in base.scores]
        )


def _by_questions(values: Sequence[np.ndarray]) -> float | None:
    if len(values) < 2:
        return None
    return float(np.stack(values).var(0, ddof=1).sum()) / len(values[0]) ** 2


def answers_of(runs: Mapping[int, RunFolder], benchmark: str, scores: Mapping[int, float]) -> Answers | None:
    """None where a score in percent is not the mean over its questions, or seeds had other questions.

    Args:
      runs, scores: by seed.

    Raises:
      Owl2Error: a file of results is damaged.
    """
    found = {seed: _answers(run, benchmark) for seed, run in runs.items()}
    ids = tuple(next(iter(found.values())))
    if not ids or any(tuple(one) != ids for one in found.values()):
        return None
    values = {seed: _PERCENT * np.array(list(one.values()), np.float64) for seed, one in found.items()}
    if any(abs(one.mean() - scores[seed]) > _EQUAL for seed, one in values.items()):
        return None
    return Answers(ids, values)


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
