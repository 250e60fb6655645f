"""What a benchmark is: examples + prompt + score.

A benchmark reads its authors' own files, turns each example into a `Question`
whose prompt is ready to be tokenized, scores one prediction, and sums up. It
knows neither model nor engine; `runner.py` brings the two together.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from owl2_jax.core.json_files import Json
from owl2_jax.data.prompts import Prompt
from owl2_jax.evals.metrics.choice import LETTERS

if TYPE_CHECKING:
    from owl2_jax.evals.broken import Broken
    from owl2_jax.evals.files import DataFile


class LazyImage(Protocol):
    """An image that has to be made first, such as a frame of a video.

    Attributes:
      path: The file that it is made from.
    """

    path: Path

    def read(self) -> bytes:
        """The bytes of an image file."""


Image = Path | bytes | LazyImage


@dataclass(frozen=True)
class Decoding:
    """How an answer is generated; always greedy, as in the release.

    Attributes:
      max_new_tokens: Tokens at most.
      min_new_tokens: Tokens before the end token may come.
      stop: Texts that end the answer and are not part of it.
    """

    max_new_tokens: int = 10
    min_new_tokens: int = 1
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """One example, ready to be asked.

    Attributes:
      id: Unique within the benchmark.
      prompt: The whole text, with one image tag for each image; or, with
        `is_message`, what the user says, without the template around it.
      prompt_hash: Hash of the template that `prompt` was made from.
      answer: The reference in JSON's types; None where it is secret.
      images: In the order of the tags.
      options: When not empty, no text is generated: each option is a
        continuation of the prompt, and the most probable one is the answer.
      info: What scoring and summing up need besides, in JSON's types.
      shorter: The prompt with fewer worked examples, longest first, for models
        whose context is too short for `prompt`.
      is_message: The checkpoint's own template goes around `prompt`.
      file, row: Where it was read from, for messages; "" inside the package.
    """

    id: str
    prompt: str
    prompt_hash: str
    answer: Json
    images: tuple[Image, ...] = ()
    options: tuple[str, ...] = ()
    info: Mapping[str, Json] = field(default_factory=dict)
    shorter: tuple[str, ...] = ()
    is_message: bool = False
    file: str = ""
    row: str = ""


class Answered(NamedTuple):
    """A question with what the model said.

    `prediction` is the generated text, or the letter of the chosen option.
    `score` is None until it can be known (a judge, a server, a whole corpus).
    """

    question: Question
    prediction: str
    score: float | None


class Summary(NamedTuple):
    """What a benchmark comes to.

    Attributes:
      metrics: Totals by metric name.
      scores: The final score of each question.
      left_out: Metrics that these answers do not give, and why.
      broken: Rows of a judge's file that cannot be used; their questions have no score.
    """

    metrics: dict[str, float]
    scores: list[float | None]
    left_out: Mapping[str, str] = MappingProxyType({})
    broken: Sequence[Broken] = ()


class Benchmark(abc.ABC):
    """Base of all benchmarks; a subclass sets the attributes and writes `questions`.

    Attributes:
      title: Name in tables.
      prompt: The prompt of its questions (its first, where it has several).
      metric: The key of `summarise(...).metrics` that stands in the table.
      decoding: See `Decoding`.
      image_mode: How images become squares; the release evaluates with "resize".
      published: The 7B model's value of `metric`, None where there is none.
      published_note: What to know about it, such as a source other than the paper.
      baselines: (description, value of `metric`) of guessing without looking.
      files: What must lie under the data root.
      scale: Where the axis of a chart ends.
      scored_here: Whether `summarise` gives `metric`; False where a judge or a server scores.
    """

    title: str
    prompt: Prompt
    metric: str = "accuracy"
    decoding: Decoding = Decoding()
    image_mode: str = "resize"
    published: float | None = None
    published_note: str = ""
    baselines: tuple[tuple[str, float], ...] = ()
    files: tuple[DataFile, ...] = ()
    scale: float = 100.0
    scored_here: bool = True

    @abc.abstractmethod
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        """Reads the examples below the data root, always in the same order.

        A row that gives no question stands there as broken.

        Raises:
          Owl2Error: A whole file is missing, or is not what it should be.
        """

    def score(self, question: Question, prediction: str) -> float | None:
        """Score of one prediction in [0, 1]; here: the option's letter is right."""
        if question.answer is None:
            return None
        return float(prediction == question.answer)

    def summarise(self, answered: Sequence[Answered]) -> Summary:
        """Sums up all answers; here: the mean score in percent, if every question has one."""
        scores = [answer.score for answer in answered]
        metrics = {} if not scores or None in scores else {self.metric: percent(scores)}
        return Summary(metrics, scores)

    def features(self, answered: Sequence[Answered], scores: Sequence[float]) -> np.ndarray:
        """float64[N, C]: per-question numbers of which `headline` needs only the means."""
        return np.asarray(scores, np.float64)[:, None]

    def headline(self, means: np.ndarray) -> float:
        """The value of `metric` from the mean of each feature, float64[C]."""
        return 100.0 * float(means[0])

    def check(self) -> None:  # noqa: B027
        """Raises `Owl2Error` when a program or package that scoring needs is missing."""

    def left_out(self) -> dict[str, str]:
        """Metrics that cannot be computed on this machine, and why; told with every result."""
        return {}

    def export(self, answered: Sequence[Answered], folder: Path) -> list[Path]:
        """Writes the files that a scoring server or a judge takes; returns their paths."""
        return []

    def data_file(self, root: Path, index: int = 0) -> Path:
        """The full path of `files[index]`, which must exist."""
        return self.files[index].require(root)


class Judged(Benchmark):
    """A benchmark whose answers a stronger model scores, outside this program."""

    @abc.abstractmethod
    def judged(self, answered: Sequence[Answered], judgements: Path) -> Summary:
        """Reads a judge's file and sums it up; questions without a usable judgement have no score.

        Raises:
          Owl2Error: The file is malformed as a whole.
        """


def percent(scores: Sequence[float]) -> float:
    """100 times the mean."""
    return 100.0 * sum(scores) / len(scores)


def percent_by(names: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    """Mean score in percent of each name, names in order of appearance."""
    groups: dict[str, list[float]] = {}
    for name, score in zip(names, scores, strict=True):
        groups.setdefault(name, []).append(score)
    return {name: percent(values) for name, values in groups.items()}


def letter_of(index: int | None) -> str:
    """The letter of an option, "" for none."""
    return "" if index is None else LETTERS[index]
