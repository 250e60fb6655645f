"""A look inside: an answer token by token, and what every layer paid attention to while giving it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from owl2_jax.attention_maps.image_attention import attentions
from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.inputs import read_request
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.request import Request, Result

ALTERNATIVES = 5  # likely tokens that are listed beside the one that was taken


@dataclass(frozen=True)
class Token:
    """One token of an answer.

    Attributes:
      text: the piece as the tokenizer has it, with "▁" for a space.
      probability: that the model gave it.
      likeliest: (text, probability) of the likeliest tokens, best first.
    """

    text: str
    probability: float
    likeliest: list[tuple[str, float]]


@dataclass(frozen=True)
class Inside:
    """What went on in a model while it answered; attention is the mean over heads.

    Attributes:
      name: of the model.
      answer: text.
      tokens: A tokens, a closing `</s>` included.
      image_mass: float32[L, A], attention on positions of images, end tokens
        included, of the state that produced each token.
      text_mass: float32[L, A], on all other positions.
      row_error: largest distance of a row of the decoder's attention from the sum 1.
      looks: float32[I, G, G], where the answer looked, sum 1 each.
      token_looks: float32[A, I, G, G], the same for every token.
      queries: float32[I, Q, G, G], which patches each query reads, sum 1 each.
      images: uint8[I][H, W, 3], as the encoder saw them.
      positions, image_positions: of the prompt, and how many are of images.
    """

    name: str
    answer: str
    tokens: list[Token]
    image_mass: np.ndarray
    text_mass: np.ndarray
    row_error: float
    looks: np.ndarray
    token_looks: np.ndarray
    queries: np.ndarray
    images: list[np.ndarray]
    positions: int
    image_positions: int


def look_inside(
    model: LoadedModel,
    messages: Sequence[Mapping[str, str]],
    images: Sequence[Any],
    max_new_tokens: int = 32,
    engine: Engine | None = None,
) -> Inside:
    """Answers greedily and keeps what the model paid attention to.

    Args:
      messages: up to the question, with image tags.
      images: one per tag: a path, the bytes of a file, or uint8[H, W, 3].
      engine: of the model, when there is one already; saves compiling it again.

    Raises:
      Owl2Error: no image, or a prompt that cannot be answered.
    """
    if not images:
        raise Owl2Error("there is no image to look into; give at least one")
    engine = engine or Engine(model, EngineConfig(sequences=1))
    prompt = read_request(Request(messages, images), model)
    limit = min(max_new_tokens, model.config.decoder.max_length - len(prompt))
    request = Request(messages, images, max_new_tokens=limit, top_logprobs=ALTERNATIVES)
    (result,) = engine.generate([request])
    found = attentions(engine, request, np.array(result.token_ids, np.int32))
    asked = found.on_queries().mean(0)  # float32[A, I, Q]
    looks = np.einsum("aiq,iqp->aip", asked, found.readings)
    is_image = np.zeros(found.decoder.shape[-1], bool)
    for start in prompt.image_starts:
        is_image[start : start + prompt.span] = True
    grid = model.config.vision.grid_size
    return Inside(
        name=model.name,
        answer=result.text,
        tokens=_tokens(model, result),
        image_mass=found.decoder.sum(-1, where=is_image),
        text_mass=found.decoder.sum(-1, where=~is_image),
        row_error=found.row_error,
        looks=_normed(looks.mean(0)).reshape(-1, grid, grid),
        token_looks=_normed(looks).reshape(len(looks), -1, grid, grid),
        queries=found.readings.reshape(*found.readings.shape[:2], grid, grid),
        images=[image.pixels() for image in prompt.images],
        positions=len(prompt),
        image_positions=len(prompt.images) * prompt.span,
    )


def _tokens(model: LoadedModel, result: Result) -> list[Token]:
    piece = model.tokenizer.piece
    chances = zip(result.token_ids, result.logprobs, result.top_logprobs, strict=True)
    return [
        Token(piece(token), math.exp(logprob), [(piece(other), math.exp(x)) for other, x in likeliest])
        for token, logprob, likeliest in chances
    ]


def _normed(looks: np.ndarray) -> np.ndarray:
    return looks / np.maximum(looks.sum(-1, keepdims=True), 1e-30)
