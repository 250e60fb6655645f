"""Where the model looked: from the tokens of an answer back to the patches of its images.

Two attentions lie between a patch and an answer. The abstractor's queries read
the patches, and the decoder's tokens read the queries:

    answer token --w[q]--> query q --a[q, p]--> patch p      look[p] = sum_q w[q] a[q, p]

Both are means over layers and heads, w also over the tokens of the answer, at
the positions that produced them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from owl2_jax.core.axes import IMAGE_TOKEN
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.prompt_format import PromptFormat
from owl2_jax.data.conversation import encode_dialogue, encode_prompt
from owl2_jax.inference.engine import Engine
from owl2_jax.inference.held_prompt import held
from owl2_jax.inference.inputs import Prompt
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.request import Request

MAX_ANSWER = 64  # tokens that are looked at


@dataclass(frozen=True)
class Look:
    """Where an answer looked at one image.

    Attributes:
      weights: float32[G, G] over the patches of the square the encoder saw, sum 1.
      share: of the answer's attention, how much went to this image.
    """

    weights: np.ndarray
    share: float


@dataclass(frozen=True)
class Attentions:
    """Attentions between images and an answer, as the model computes them; each the mean over heads.

    Attributes:
      prompt: of the answer.
      decoder: float32[L, A, S], of the tokens whose states produced the answer.
      readings: float32[I, Q, P], how the queries spread over the patches, mean over layers, sum 1.
      row_error: largest distance of a row of the decoder's, of any head, from the sum 1.
    """

    prompt: Prompt
    decoder: np.ndarray
    readings: np.ndarray
    row_error: float

    def on_queries(self) -> np.ndarray:
        """What lies on the queries of each image: float32[L, A, I, Q]."""
        count = self.readings.shape[1]
        return np.stack([self.decoder[..., at : at + count] for at in self.prompt.image_starts], axis=-2)


def encode_question(
    model: LoadedModel,
    messages: Sequence[dict[str, str]],
    answer: str,
    images: Sequence[np.ndarray],
    prompt_format: PromptFormat | None = None,
) -> tuple[Request, np.ndarray]:
    """A question and its answer as `look` takes them.

    Args:
      messages: up to the question, with image tags.
      answer: what came out.
      images: uint8[H, W, 3] at the model's size, one per tag.
      prompt_format: how the messages are written; None for the model's.

    Returns:
      The question, and int32[A], the answer without `</s>`, of which the beginning counts.

    Raises:
      Owl2Error: no image, an answer without tokens, too long, or messages that cannot be encoded.
    """
    if not images:
        raise Owl2Error("the conversation has no image to look at")
    names = (prompt_format or model.prompt_format, model.tokenizer, len(images))
    ids = encode_prompt(messages, *names).ids
    answered = [*messages, {"role": "assistant", "content": answer}]
    answer_ids = encode_dialogue(answered, *names, assistant_first=True).ids[len(ids) :]
    answer_ids = answer_ids[answer_ids != model.tokenizer.eos_id][:MAX_ANSWER]
    if not len(answer_ids) or ids[-1] == IMAGE_TOKEN:
        raise Owl2Error("there is no answer after a question; nothing looked at the image")
    positions = len(ids) + len(images) * (model.config.tokens_per_image - 1)
    if positions + len(answer_ids) - 1 > model.config.decoder.max_length:
        raise Owl2Error("the conversation and its answer are longer than the model allows")
    return Request(ids, images), answer_ids


def attentions(engine: Engine, request: Request, answer: np.ndarray) -> Attentions:
    """What the model paid attention to while it gave an answer int32[A]; other requests may run.

    Raises:
      Owl2Error: a prompt that cannot be run, or all pages are in use.
    """
    runner = engine.runner
    found, errors = [], []
    with held(engine, request, answer[:-1]) as sequence:
        first = len(sequence.prompt) - 1
        for start in range(first, sequence.length, runner.sizes.looked):
            part, error = runner.look(sequence, start, min(start + runner.sizes.looked, sequence.length))
            found.append(part)
            errors.append(error)
    readings = np.stack([runner.reading(image) for image in sequence.prompt.images])
    return Attentions(sequence.prompt, np.concatenate(found, axis=1), readings, max(errors))


def look(engine: Engine, request: Request, answer: np.ndarray) -> list[Look]:
    """Where the model looked while it gave an answer, for each image; arguments as of `attentions`."""
    found = attentions(engine, request, answer)
    asked = found.on_queries().mean((0, 1))  # float32[I, Q]
    looks = np.einsum("iq,iqp->ip", asked, found.readings)
    looks /= np.maximum(looks.sum(-1, keepdims=True), 1e-30)
    grid = engine.model.config.vision.grid_size
    return [
        Look(weights.reshape(grid, grid), float(share))
        for weights, share in zip(looks, asked.sum(-1), strict=True)
    ]
