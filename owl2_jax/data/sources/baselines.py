"""Scores that need no image and no model: what a result has to beat."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Protocol


class Asked(Protocol):
    """A split whose questions can be read without their images."""

    def question_answers(self) -> list[tuple[str, str, str]]:
        """(kind, question, answer) of every example."""

    def answers_by_kind(self) -> dict[str, Counter[str]]:
        """How often each answer occurs, for each kind of question."""


def majority_baseline(split: Asked) -> dict[str, float]:
    """Share of correct answers, by kind, when always giving the kind's most common answer.

    The common answer is taken from the scored split itself, which makes the
    baseline as strong as a constant answer can be.
    """
    return {
        kind: counts.most_common(1)[0][1] / counts.total()
        for kind, counts in sorted(split.answers_by_kind().items())
    }


def question_only_baseline(train: Asked, test: Asked) -> float:
    """Share of `test` answered right by the answer most common for the same question in `train`.

    A question that training never asked gets the most common answer of its
    kind there; a kind that training never had is answered wrong.
    """
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    by_kind: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, question, answer in train.question_answers():
        by_question[question][answer] += 1
        by_kind[kind][answer] += 1
    scored = test.question_answers()
    correct = sum(
        _guess(by_question[question] or by_kind[kind]) == answer for kind, question, answer in scored
    )
    return correct / len(scored)


def _guess(counts: Counter[str]) -> str | None:
    return counts.most_common(1)[0][0] if counts else None
