"""Where the model looked: from the tokens of an answer back to the patches of its images.

Two attentions lie between a patch and an answer. The abstractor's queries read
the patches, and the decoder's tokens read the queries:

    answer token --w[q]--> query q --a[q, p]--> patch p      look[p] = sum_q w[q] a[q, p]

Both are means over layers and heads, w also over the tokens of the answer, at
the positions that produced them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from owl2_jax.core.axes import IMAGE_TOKEN
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.prompt_format import PromptFormat
from owl2_jax.data.conversation import encode_dialogue, encode_prompt
from owl2_jax.inference import whole_prompts
from owl2_jax.inference.buckets import bucket, length_buckets, power_buckets
from owl2_jax.inference.inputs import Prompt, place_images
from owl2_jax.inference.loaded import LoadedModel
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.owl2 import Owl2
from owl2_jax.parallel.axis_rules import activate

Array = jax.Array

MAX_ANSWER = 64  # tokens that are looked at; attention of all layers is held for each


@dataclass(frozen=True)
class Look:
    """Where an answer looked at one image.

    Attributes:
      weights: float32[G, G] over the patches of the square the encoder saw, sum 1.
      share: of the answer's attention, how much went to this image.
    """

    weights: np.ndarray
    share: float


class Looking:
    """Finds where a model looked, one answer at a time; may be called from any thread.

    Args:
      model: that gave the answers.
    """

    def __init__(self, model: LoadedModel):
        self._model = model
        self._config = model.config.replace(remat="none")

    def look(
        self,
        messages: Sequence[dict[str, str]],
        answer: str,
        images: Sequence[np.ndarray],
        prompt_format: PromptFormat | None = None,
    ) -> list[Look]:
        """Where it looked while it gave an answer, for each image.

        Args:
          messages: up to the question, with image tags.
          answer: what came out.
          images: uint8[H, W, 3] at the model's size, one per tag.
          prompt_format: how the messages are written; None for the model's.

        Raises:
          Owl2Error: no image, an answer without tokens, too long, or messages
            that cannot be encoded.
        """
        ids, answer_ids = self._encode(
            messages, answer, len(images), prompt_format or self._model.prompt_format
        )
        prompt = place_images(ids[:-1], self._model)
        fed = np.concatenate([ids[-1:], answer_ids[:-1]])[:MAX_ANSWER]
        if len(prompt) + len(fed) > self._config.decoder.max_length:
            raise Owl2Error("the conversation and its answer are longer than the model allows")
        placed = place_all(self._model, prompt, len(images))
        places = placed.image_index.shape[1]
        with computing(self._model):
            weights, shares = _attention_maps(
                self._config,
                self._model.params,
                stack_images(images, places),
                placed,
                _pad(fed, power_buckets(MAX_ANSWER))[None],
                np.int32(len(fed)),
            )
        grid = self._config.vision.grid_size
        maps = np.asarray(weights).reshape(places, grid, grid)
        return [Look(maps[i], float(shares[i])) for i in range(len(images))]

    def _encode(
        self, messages: Sequence[dict[str, str]], answer: str, images: int, prompt_format: PromptFormat
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the prompt and, `</s>` left out, of the answer."""
        model = self._model
        if not images:
            raise Owl2Error("the conversation has no image to look at")
        names = (prompt_format, model.tokenizer, images)
        ids = encode_prompt(messages, *names).ids
        answered = [*messages, {"role": "assistant", "content": answer}]
        whole = encode_dialogue(answered, *names, assistant_first=True).ids
        answer_ids = whole[len(ids) :]
        answer_ids = answer_ids[answer_ids != model.tokenizer.eos_id]
        if not len(answer_ids) or ids[-1] == IMAGE_TOKEN:
            raise Owl2Error("there is no answer after a question; nothing looked at the image")
        return ids, answer_ids


@functools.partial(jax.jit, static_argnames="config")
def _attention_maps(
    config: Owl2Config, params: Any, images: Array, prompts: whole_prompts.Prompts, fed: Array, count: Array
) -> tuple[Array, Array]:
    """Weights float32[I, P], sum 1 each, and shares float32[I]; arguments as of `attentions`.

    Args:
      count: int32[], how many of the tokens in `fed` are real.
    """
    attention, reading = attentions(config, params, images, prompts, fed)
    real = jnp.arange(fed.shape[1]) < count
    seen = jnp.mean(attention, axis=(0, 1, 2), where=real[:, None])  # float32[S]
    asked = on_queries(config, seen, prompts)
    looks = jnp.einsum("iq,iqp->ip", asked, over_patches(config, reading))
    return looks / jnp.maximum(looks.sum(-1, keepdims=True), 1e-30), asked.sum(-1)


def attentions(
    config: Owl2Config, params: Any, images: Array, prompts: whole_prompts.Prompts, fed: Array
) -> tuple[Array, Array]:
    """Every attention between the images and an answer, as the model computes it.

    Args:
      images: uint8[I, H, W, 3].
      prompts: one row, without its last token.
      fed: int32[1, A], the tokens whose states produced the answer: the
        prompt's last one, then the answer's without its last.

    Returns:
      float32[L, N, A, S], of the tokens over all positions, and
      float32[layers, I, N, Q, Q + 1 + P], of the queries over themselves, the
      class token and the patches. Every row sums to 1.
    """
    module, variables = Owl2(config), {"params": params}
    # The encoder runs by itself: its own attention is large, and not asked for.
    patches = module.apply(variables, images, method=lambda m, x: m.vision(x))
    features, state = module.apply(
        variables, patches, method=lambda m, x: m.abstractor(x), mutable=["intermediates"]
    )
    (reading,) = state["intermediates"]["abstractor"]["layers"]["attention"]["attention"]
    length = prompts.tokens.shape[1]
    positions = jnp.arange(length, dtype=jnp.int32)[None]
    segment_ids = (positions < prompts.lengths[:, None]).astype(jnp.int32)
    _, cache = module.apply(
        variables, prompts.tokens, positions, segment_ids, features, prompts.image_index,
        prompts.image_starts, length + fed.shape[1], method="prefill",
    )  # fmt: skip
    _, state = module.apply(variables, fed, cache, method="extend", mutable=["intermediates"])
    (attention,) = state["intermediates"]["decoder"]["layers"]["attention"]["attention"]
    return attention[:, 0], reading


def on_queries(config: Owl2Config, seen: Array, prompts: whole_prompts.Prompts) -> Array:
    """What of float32[..., S] lies on the queries of each image: float32[..., I, Q]; 0 where no image is."""
    queries = prompts.image_starts[0][:, None] + jnp.arange(config.abstractor.num_queries)
    return jnp.where(prompts.image_index[0][:, None] >= 0, seen[..., queries], 0.0)


def over_patches(config: Owl2Config, reading: Array) -> Array:
    """How each query spreads over the patches alone, float32[I, Q, P], mean over layers and heads, sum 1."""
    over = reading.mean(axis=(0, 2))[:, :, config.abstractor.num_queries + 1 :]
    return over / over.sum(-1, keepdims=True)


def computing(model: LoadedModel) -> contextlib.AbstractContextManager[None]:
    """Around calls of a model's module: its mesh."""
    return contextlib.nullcontext() if model.mesh is None else activate(model.mesh)


def place_all(model: LoadedModel, prompt: Prompt, images: int) -> whole_prompts.Prompts:
    """A prompt as one padded row, with image i in place i and some places left empty."""
    tokens = _pad(prompt.tokens, length_buckets(model.config.decoder.max_length))
    count = bucket(images, power_buckets(max(images, 1) * 2))
    index = np.full((1, count), -1, np.int32)
    starts = np.zeros((1, count), np.int32)
    index[0, :images] = range(images)
    starts[0, :images] = prompt.image_starts
    return whole_prompts.Prompts(tokens[None], np.array([len(prompt)], np.int32), index, starts)


def stack_images(images: Sequence[np.ndarray], places: int) -> np.ndarray:
    """uint8[places, H, W, 3]; black where there is no image."""
    return np.stack([*images, *[np.zeros_like(images[0])] * (places - len(images))])


def _pad(values: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    return np.pad(values, (0, bucket(len(values), lengths) - len(values))).astype(np.int32)
