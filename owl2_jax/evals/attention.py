"""How much of a model's attention goes to images, layer by layer, over the questions of a benchmark."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from owl2_jax.attention_maps.image_attention import attentions
from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.asking import EngineModel
from owl2_jax.evals.base import Decoding, Question

_ANY_TOKEN = np.zeros(1, np.int32)  # of an answer; only what came before it is run


@dataclass(frozen=True)
class Mass:
    """Attention of the state that gives an answer's first token; mean over heads.

    Attributes:
      name: of the model.
      images: float64[N, L], what lies on the positions of images in each of N
        questions and L layers; the rest is on text.
      positions: share of a prompt's positions that are of images, mean over the questions.
    """

    name: str
    images: np.ndarray
    positions: float

    @property
    def by_layer(self) -> np.ndarray:
        """float64[L], mean over the questions."""
        return self.images.mean(0)


def image_mass(
    model: EngineModel, questions: Sequence[Question], decoding: Decoding, image_mode: str
) -> Mass:
    """Asks every question as `owl2 evaluate` does.

    Raises:
      Owl2Error: a question that cannot be asked; `with_images` has left out those without images.
    """
    found, shares = [], []
    for request in model.requests(questions, decoding, image_mode):
        one = attentions(model.engine, request, _ANY_TOKEN)
        is_image = np.zeros(one.decoder.shape[-1], bool)
        for start in one.prompt.image_starts:
            is_image[start : start + one.prompt.span] = True
        found.append(one.decoder[:, 0].sum(-1, where=is_image, dtype=np.float64))
        shares.append(is_image.sum() / len(one.prompt))
    return Mass(model.name, np.stack(found), float(np.mean(shares)))


def with_images(name: str, questions: Sequence[Question]) -> list[Question]:
    """Questions that have an image and are answered in words. Raises `Owl2Error` when there is none."""
    found = [question for question in questions if question.images and not question.options]
    if not found:
        raise Owl2Error(
            f"{name} asks nothing about images in words, so there is no attention on images; give another "
            "benchmark (`owl2 evaluate --list`)"
        )
    return found


def with_unrelated_images(questions: Sequence[Question]) -> list[Question]:
    """Each question with the images of the next one that has as many, and others; the first follows the last.

    Raises:
      Owl2Error: all questions are about the same images.
    """
    return list(_exchanged(questions))


def _exchanged(questions: Sequence[Question]) -> Iterator[Question]:
    for number, question in enumerate(questions):
        others = [*questions[number + 1 :], *questions[:number]]
        other = next(
            (
                one.images
                for one in others
                if len(one.images) == len(question.images) and not set(one.images) & set(question.images)
            ),
            None,
        )
        if other is None:
            raise Owl2Error(
                f"question {question.id}: no other question has as many images and none of its own; ask more "
                "questions (--limit)"
            )
        yield replace(question, images=other)


def mass_csv(masses: Sequence[Mass]) -> str:
    """A row per model and layer: mean and sample standard deviation over the questions, in percent."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["model", "layer", "questions", "on_images", "deviation", "positions_of_images"])
    for mass in masses:
        count = len(mass.images)
        deviations = mass.images.std(0, ddof=1) if count > 1 else np.full(mass.images.shape[1], np.nan)
        for layer, (mean, deviation) in enumerate(zip(mass.by_layer, deviations, strict=True), 1):
            spread = "" if count == 1 else 100 * deviation
            writer.writerow([mass.name, layer, count, 100 * mean, spread, 100 * mass.positions])
    return stream.getvalue()
