"""Requests as arrays: token positions of a prompt, and batches of prompts padded to static sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.conversation import encode_prompt, encode_text, expand
from owl2_jax.data.messages import ImageCountError
from owl2_jax.data.turns import read_turns
from owl2_jax.inference import generate
from owl2_jax.inference.images import RequestImage
from owl2_jax.inference.loaded import LoadedModel
from owl2_jax.inference.request import Request


@dataclass
class Prompt:
    """A prompt ready for the model.

    Attributes:
      tokens: int32[T], V at the positions of pictures.
      image_starts: first position of each picture.
      pictures: one per start.
      span: Q + 1, positions of a picture.
    """

    tokens: np.ndarray
    image_starts: list[int]
    pictures: list[RequestImage]
    span: int

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def signature(self) -> np.ndarray:
        """int64[T]: equal beginnings of two signatures are equal beginnings of the prompts."""
        numbers = self.tokens.astype(np.int64)
        for start, picture in zip(self.image_starts, self.pictures, strict=True):
            # Negative, so that no picture is taken for a token.
            numbers[start : start + self.span] = -1 - int.from_bytes(picture.key[:7], "big")
        return numbers

    def reusable(self, length: int) -> int:
        """The longest beginning of at most `length` that cuts no picture and leaves something to run."""
        length = min(length, len(self) - 1)
        for start in self.image_starts:
            if start < length < start + self.span:
                return start
        return max(length, 0)

    def after(self, length: int) -> Prompt:
        """The prompt without its first `length` positions, which cut no picture."""
        gone = sum(start < length for start in self.image_starts)
        starts = [start - length for start in self.image_starts[gone:]]
        return Prompt(self.tokens[length:], starts, self.pictures[gone:], self.span)


def read_request(request: Request, model: LoadedModel) -> Prompt:
    """Tokenizes a prompt and reads its pictures.

    Raises:
      Owl2Error: messages out of order, more or fewer pictures than tags, a
        file that is no picture, or a prompt that leaves no room for an answer.
    """
    prompt = place_pictures(prompt_ids(request, model), model)
    prompt.pictures = read_pictures(request, model, len(prompt.image_starts))
    check_room(len(prompt), request.max_new_tokens, model.config.decoder.max_length)
    return prompt


def read_pictures(request: Request, model: LoadedModel, tags: int) -> list[RequestImage]:
    """The pictures of a request, which must be as many as its prompt has tags."""
    if len(request.images) != tags:
        raise ImageCountError(
            f"the prompt has {tags} image tags {model.image_tag!r} and {len(request.images)} pictures; "
            "give one picture per tag, in the order of the tags"
        )
    mode, size = request.image_mode or model.image_mode, model.config.vision.image_size
    return [RequestImage(source, mode, size) for source in request.images]


def prompt_ids(request: Request, model: LoadedModel) -> np.ndarray:
    """Token ids int32[n] of a prompt, -200 where a picture stands."""
    prompt = request.prompt
    if isinstance(prompt, np.ndarray):
        return prompt.astype(np.int32)
    if isinstance(prompt, str):
        return encode_text(prompt, model.tokenizer, model.image_tag, control_tokens=request.control_tokens)
    return encode_prompt(
        read_turns(prompt, model.image_tag),
        model.template,
        model.tokenizer,
        model.image_tag,
        len(request.images),
        control_tokens=request.control_tokens,
    ).ids


def place_pictures(ids: np.ndarray, model: LoadedModel) -> Prompt:
    """Gives each picture its Q + 1 positions; the pictures themselves are left out."""
    span = model.config.tokens_per_image
    expanded = expand(ids, ids, span)
    starts = expanded.image_starts.tolist()
    tokens = expanded.tokens
    for start in starts:
        tokens[start : start + span] = model.config.decoder.vocab_size
    return Prompt(tokens, starts, [], span)


def check_room(length: int, max_new_tokens: int | None, max_length: int) -> None:
    """Raises `Owl2Error` when a prompt and its answer do not fit into the model."""
    if length == 0:
        raise Owl2Error("the prompt is empty; expected at least one token")
    if length >= max_length:
        raise Owl2Error(
            f"the prompt has {length} positions (pictures included) and the model {max_length}, "
            "of which at least one is for the answer; shorten the prompt or give fewer pictures"
        )
    if max_new_tokens is not None and length + max_new_tokens > max_length:
        raise Owl2Error(
            f"prompt {length} + max_new_tokens {max_new_tokens} = {length + max_new_tokens} positions are "
            f"more than the model's {max_length}; ask for at most {max_length - length} new tokens"
        )


def stack_prompts(
    prompts: Sequence[Prompt], rows: int, length: int, padding_token: int, row_of: Callable[[RequestImage], int]
) -> generate.Prompts:
    """Prompts padded to int32[rows, length], with as many image slots as the fullest needs.

    Args:
      padding_token: stands in padding; V, like the positions of pictures.
      row_of: where the features of a picture stand in the pool.
    """
    width = max(_slots_for(len(prompt.pictures)) for prompt in prompts)
    tokens = stack_tokens(prompts, rows, length, padding_token)
    index = np.full((rows, width), -1, np.int32)
    starts = np.zeros((rows, width), np.int32)
    for row, prompt in enumerate(prompts):
        count = len(prompt.pictures)
        index[row, :count] = [row_of(picture) for picture in prompt.pictures]
        starts[row, :count] = prompt.image_starts
    lengths = pad_column([len(prompt) for prompt in prompts], rows - len(prompts), 0)
    return generate.Prompts(tokens, lengths, index, starts)


def stack_tokens(prompts: Sequence[Prompt], rows: int, length: int, padding_token: int) -> np.ndarray:
    """int32[rows, length], right-padded."""
    tokens = np.full((rows, length), padding_token, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt.tokens
    return tokens


def pad_column(values: Sequence[int], padding: int, filler: int) -> np.ndarray:
    """int32[len(values) + padding]."""
    return np.array([*values, *[filler] * padding], np.int32)


def _slots_for(pictures: int) -> int:
    """Image slots of a row: 0, 1, 2, 4, 8, ..."""
    return 0 if pictures == 0 else 1 << (pictures - 1).bit_length()
