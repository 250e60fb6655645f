"""Questions and answers as numbers, for a network that chooses among the answers of its training."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

UNKNOWN = -1  # an answer that training never had: it cannot be chosen


class Codes:
    """Words with their places in a question, and answers, as training has them.

    Args:
      questions: of training; words that only others have count as none.
      answers: of training, as many.
    """

    def __init__(self, questions: Sequence[str], answers: Sequence[str]):
        words = sorted({word for question in questions for word in _words(question)})
        self._words = {word: number for number, word in enumerate(words, 1)}
        self._places = max(len(_words(question)) for question in questions)
        self.answers = tuple(sorted(set(answers)))
        self._answers = {answer: number for number, answer in enumerate(self.answers)}

    @property
    def inputs(self) -> int:
        """Rows of a table with one for every word at every place."""
        return self._places * (len(self._words) + 1)

    def questions(self, texts: Sequence[str]) -> np.ndarray:
        """Rows of that table, int32[N, places]; row 0 of a place is no word or an unknown one."""
        codes = np.zeros((len(texts), self._places), np.int32)
        for row, text in zip(codes, texts, strict=True):
            known = [self._words.get(word, 0) for word in _words(text)[: self._places]]
            row[: len(known)] = known
        return codes + np.arange(self._places, dtype=np.int32) * (len(self._words) + 1)

    def labels(self, answers: Sequence[str]) -> np.ndarray:
        """int32[N]; `UNKNOWN` for answers that training never had."""
        return np.array([self._answers.get(answer, UNKNOWN) for answer in answers], np.int32)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
