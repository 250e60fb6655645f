"""The benchmarks inside the package: easy-VQA's test split, held-out drawn images, held-out phrasings.

They need no files and no network. Each shows what can be scored without a
image beside its score: always giving the most common answer, and answering
from the question alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from owl2_jax.data.prompts import PROMPTS
from owl2_jax.data.sources.baselines import majority_baseline, question_only_baseline
from owl2_jax.data.sources.embedded import EmbeddedSource
from owl2_jax.evals.base import Answered, Benchmark, Question, Summary, percent, percent_by
from owl2_jax.evals.metrics.answers import exact_match


class Embedded(Benchmark):
    """A split of the embedded corpus, whole or one kind of question, scored by exact match."""

    prompt = PROMPTS["as_asked"]

    def __init__(self, dataset: str, title: str, kind: str | None = None):
        self.title = title
        self._dataset = dataset
        self._kinds = None if kind is None else [kind]

    @cached_property
    def source(self) -> EmbeddedSource:
        """The scored examples; read when first needed."""
        return EmbeddedSource(self._dataset, "test", kinds=self._kinds)

    @cached_property
    def baselines(self) -> tuple[tuple[str, float], ...]:
        train = EmbeddedSource(self._dataset, "train", kinds=self._kinds)
        counts = self.source.kind_counts()
        shares = majority_baseline(self.source)
        majority = sum(shares[kind] * count for kind, count in counts.items()) / len(self.source)
        return (
            ("majority", 100.0 * majority),
            ("question only", 100.0 * question_only_baseline(train, self.source)),
        )

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

    def score(self, question: Question, prediction: str) -> float:
        return exact_match(prediction, question.answer)

    def summarise(self, answered: Sequence[Answered]) -> Summary:
        scores = [answer.score for answer in answered]
        kinds = [answer.question.info["kind"] for answer in answered]
        by_kind = percent_by(kinds, scores)
        return Summary({self.metric: percent(scores), **(by_kind if len(by_kind) > 1 else {})}, scores)
