"""A look inside: an answer token by token, and what every layer paid attention to while giving it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference import whole_prompts
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.image_attention import (
    attentions,
    computing,
    on_queries,
    over_patches,
    place_all,
    stack_images,
)
from owl2_jax.inference.inputs import Prompt, prompt_ids, read_request
from owl2_jax.inference.loaded import LoadedModel
from owl2_jax.inference.request import Request, Result
from owl2_jax.model.config import Owl2Config

Array = jax.Array

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
      row_error: largest distance of a row of attention from the sum 1.
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
    prompt = read_request(Request(messages, images), model)
    limit = min(max_new_tokens, model.config.decoder.max_length - len(prompt))
    request = Request(messages, images, max_new_tokens=limit, top_logprobs=ALTERNATIVES)
    (result,) = (engine or Engine(model, EngineConfig(sequences=1))).generate([request])
    seen = [image.pixels() for image in prompt.images]
    # The state of a position produces the token after it: the prompt's last position the first.
    last = prompt_ids(request, model)[-1:]
    fed = np.concatenate([last, result.token_ids[:-1]]).astype(np.int32)
    shown = _measure(model, prompt, seen, fed)
    grid = model.config.vision.grid_size
    return Inside(
        name=model.name,
        answer=result.text,
        tokens=_tokens(model, result),
        image_mass=shown["image_mass"],
        text_mass=shown["text_mass"],
        row_error=float(shown["row_error"]),
        looks=_normed(shown["looks"].mean(0)).reshape(-1, grid, grid)[: len(seen)],
        token_looks=_normed(shown["looks"]).reshape(len(fed), -1, grid, grid)[:, : len(seen)],
        queries=shown["queries"].reshape(len(shown["queries"]), -1, grid, grid)[: len(seen)],
        images=seen,
        positions=len(prompt),
        image_positions=len(seen) * model.config.tokens_per_image,
    )


def _tokens(model: LoadedModel, result: Result) -> list[Token]:
    piece = model.tokenizer.piece
    chances = zip(result.token_ids, result.logprobs, result.top_logprobs, strict=True)
    return [
        Token(piece(token), math.exp(logprob), [(piece(other), math.exp(x)) for other, x in likeliest])
        for token, logprob, likeliest in chances
    ]


def _measure(
    model: LoadedModel, prompt: Prompt, seen: Sequence[np.ndarray], fed: np.ndarray
) -> dict[str, np.ndarray]:
    without_last = Prompt(prompt.tokens[:-1], prompt.image_starts, [], prompt.span)
    placed = place_all(model, without_last, len(seen))
    images = stack_images(seen, placed.image_index.shape[1])
    with computing(model):
        shown = _inside(model.config.replace(remat="none"), model.params, images, placed, fed[None])
    return jax.tree.map(np.asarray, shown)


@functools.partial(jax.jit, static_argnames="config")
def _inside(
    config: Owl2Config, params: Any, images: Array, prompts: whole_prompts.Prompts, fed: Array
) -> dict[str, Array]:
    """Arrays of `Inside`; arguments as of `attentions`."""
    attention, reading = attentions(config, params, images, prompts, fed)
    sums = jnp.concatenate([attention.sum(-1).reshape(-1), reading.sum(-1).reshape(-1)])
    mean = attention.mean(1)  # float32[L, A, S]
    is_image = image_positions(config, prompts, attention.shape[-1])
    spread = over_patches(config, reading)
    asked = on_queries(config, mean.mean(0), prompts)  # float32[A, I, Q]
    return {
        "image_mass": jnp.sum(mean, axis=-1, where=is_image),
        "text_mass": jnp.sum(mean, axis=-1, where=~is_image),
        "row_error": jnp.max(jnp.abs(sums - 1.0)),
        "looks": jnp.einsum("aiq,iqp->aip", asked, spread),
        "queries": spread,
    }


def image_positions(config: Owl2Config, prompts: whole_prompts.Prompts, length: int) -> Array:
    """bool[length]: where the Q + 1 positions of an image stand in a prompt of one row."""
    starts, taken = prompts.image_starts[0][:, None], prompts.image_index[0][:, None] >= 0
    positions = jnp.arange(length)
    return jnp.any(taken & (positions >= starts) & (positions < starts + config.tokens_per_image), axis=0)


def _normed(looks: np.ndarray) -> np.ndarray:
    return looks / np.maximum(looks.sum(-1, keepdims=True), 1e-30)
