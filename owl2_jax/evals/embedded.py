"""The benchmarks inside the package: easy-VQA's test split, held-out images and phrasings, scenes.

They need no files and no network. Each shows what can be scored without a
image beside its score: always giving the most common answer, and answering
from the question alone.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

from owl2_jax.core.overriding import override
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.data.scenes.questions import Modality, Split, kinds_of
from owl2_jax.data.sources.baselines import majority_baseline, question_only_baseline
from owl2_jax.data.sources.embedded import EmbeddedSource
from owl2_jax.data.sources.scenes import ScenesSource
from owl2_jax.evals.base import Answered, Benchmark, Question, Summary, percent, percent_by
from owl2_jax.evals.metrics.answers import exact_match

_SCENES_SCORED: Final = 4800
_SCENES_GUESSED: Final = 4800  # of training, for the guess from the question alone


class _Inside(Benchmark):
    """A source inside the package, scored by exact match; `open` makes its splits."""

    prompt = PROMPTS["as_asked"]

    @abc.abstractmethod
    def open(self, split: str) -> EmbeddedSource | ScenesSource:
        """The source of "train" or of "test"."""

    @cached_property
    def source(self) -> EmbeddedSource | ScenesSource:
        """The scored examples; read when first needed."""
        return self.open("test")

    @cached_property
    def baselines(self) -> tuple[tuple[str, float], ...]:
        counts = self.source.kind_counts()
        shares = majority_baseline(self.source)
        majority = sum(shares[kind] * count for kind, count in counts.items()) / len(self.source)
        return (
            ("majority", 100.0 * majority),
            ("question only", 100.0 * question_only_baseline(self.open("train"), self.source)),
        )

    @override
    def questions(self, root: Path) -> Iterator[Question]:
        for example in self.source:
            yield Question(
                example["id"],
                example["messages"][0]["content"],
                self.prompt.hash,
                example["answer"],
                tuple(example["images"]),
                info={"kind": example["kind"]},
                is_message=True,
            )

    @override
    def score(self, question: Question, prediction: str) -> float:
        return exact_match(prediction, question.answer)

    @override
    def summarise(self, answered: Sequence[Answered]) -> Summary:
        scores = [answer.score for answer in answered]
        kinds = [answer.question.info["kind"] for answer in answered]
        by_kind = percent_by(kinds, scores)
        return Summary({self.metric: percent(scores), **(by_kind if len(by_kind) > 1 else {})}, scores)


class Embedded(_Inside):
    """A split of the embedded corpus, whole or one kind of question."""

    def __init__(self, dataset: str, title: str, kind: str | None = None):
        self.title = title
        self._dataset = dataset
        self._kinds = None if kind is None else [kind]

    @override
    def open(self, split: str) -> EmbeddedSource:
        """The source of a split."""
        return EmbeddedSource(self._dataset, split, kinds=self._kinds)


class Scenes(_Inside):
    """A split of the scenes drawn from seeds, in one modality.

    Args:
      split, modality, difficulty: as of `ScenesSource`.
    """

    def __init__(self, split: Split, modality: Modality, title: str, difficulty: int = 2):
        self.title = title
        self._split, self._modality, self._difficulty = split, modality, difficulty

    @override
    def open(self, split: str) -> ScenesSource:
        """The source of a split."""
        taken: Split = "train" if split == "train" else self._split
        # What training may show has captions and homes, too; kinds that are not scored teach no guess.
        return ScenesSource(
            taken,
            modality=self._modality,
            kinds=kinds_of(self._modality, self._split),
            difficulty=self._difficulty,
            examples=_SCENES_GUESSED if split == "train" else _SCENES_SCORED,
        )
