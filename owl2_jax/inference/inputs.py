"""Requests as arrays: token positions of a prompt, and its images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from owl2_jax.core.axes import IMAGE_TOKEN
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.conversation import encode_prompt, encode_text
from owl2_jax.data.messages import ImageCountError
from owl2_jax.data.tokenizer import Tokenizer
from owl2_jax.data.turns import read_turns
from owl2_jax.inference.images import RequestImage
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.request import Request
from owl2_jax.structured.grammars import grammars_of
from owl2_jax.structured.matcher import Matcher


@dataclass
class Prompt:
    """A prompt ready for the model.

    Attributes:
      tokens: int32[T], V at the positions of images.
      image_starts: first position of each image.
      images: one per start.
      span: Q + 1, positions of an image.
    """

    tokens: np.ndarray
    image_starts: list[int]
    images: list[RequestImage]
    span: int

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def signature(self) -> np.ndarray:
        """int64[T]: equal beginnings of two signatures are equal beginnings of the prompts."""
        numbers = self.tokens.astype(np.int64)
        for start, image in zip(self.image_starts, self.images, strict=True):
            # Negative, so that no image is taken for a token.
            numbers[start : start + self.span] = -1 - int.from_bytes(image.key[:7], "big")
        return numbers


def read_request(request: Request, model: LoadedModel) -> Prompt:
    """Tokenizes a prompt and reads its images.

    Raises:
      Owl2Error: messages out of order, more or fewer images than tags, a
        file that is no image, or a prompt that leaves no room for an answer.
    """
    request.check_tokens(model.tokenizer.vocab_size)
    prompt = place_images(prompt_ids(request, model), model)
    prompt.images = read_images(request, model, len(prompt.image_starts))
    check_room(len(prompt), request.max_new_tokens, model.config.decoder.max_length)
    return prompt


def read_images(request: Request, model: LoadedModel, tags: int) -> list[RequestImage]:
    """The images of a request, which must be as many as its prompt has tags."""
    prompt_format = model.prompt_format
    if len(request.images) != tags:
        raise ImageCountError(
            f"the prompt has {tags} image tags {prompt_format.image_tag!r} and {len(request.images)} images; "
            "give one image per tag, in the order of the tags"
        )
    mode, size = request.image_mode or prompt_format.image_mode, model.config.vision.image_size
    return [
        source if isinstance(source, RequestImage) else RequestImage(source, mode, size)
        for source in request.images
    ]


def prompt_ids(request: Request, model: LoadedModel) -> np.ndarray:
    """Token ids int32[n] of a prompt, -200 where an image stands."""
    prompt, image_tag = request.prompt, model.prompt_format.image_tag
    if isinstance(prompt, np.ndarray):
        known = (prompt >= 0) & (prompt < model.config.decoder.vocab_size)
        strange = prompt[~known & (prompt != IMAGE_TOKEN)]
        if len(strange):
            raise Owl2Error(
                f"the prompt has the token {strange[0]}; expected ids from 0 to "
                f"{model.config.decoder.vocab_size - 1}, and {IMAGE_TOKEN} where an image stands"
            )
        return prompt.astype(np.int32)
    if isinstance(prompt, str):
        return encode_text(prompt, model.tokenizer, image_tag, control_tokens=request.control_tokens)
    return encode_prompt(
        read_turns(prompt, image_tag),
        model.prompt_format,
        model.tokenizer,
        len(request.images),
        control_tokens=request.control_tokens,
    ).ids


def place_images(ids: np.ndarray, model: LoadedModel) -> Prompt:
    """Gives each image its Q + 1 positions; the images themselves are left out."""
    span = model.config.tokens_per_image
    places = np.flatnonzero(ids == IMAGE_TOKEN)
    tokens = np.repeat(ids, np.where(ids == IMAGE_TOKEN, span, 1)) if len(places) else ids.copy()
    starts = (places + np.arange(len(places)) * (span - 1)).tolist()
    for start in starts:
        tokens[start : start + span] = model.config.decoder.vocab_size
    return Prompt(tokens, starts, [], span)


def check_room(length: int, max_new_tokens: int | None, max_length: int) -> None:
    """Raises `Owl2Error` when a prompt and its answer do not fit into the model."""
    if length == 0:
        raise Owl2Error("the prompt is empty; expected at least one token")
    if length >= max_length + (max_new_tokens == 0):
        raise Owl2Error(
            f"the prompt has {length} positions (images included) and the model {max_length}, "
            "of which at least one is for the answer; shorten the prompt or give fewer images"
        )
    if max_new_tokens is not None and length + max_new_tokens > max_length:
        raise Owl2Error(
            f"prompt {length} + max_new_tokens {max_new_tokens} = {length + max_new_tokens} positions are "
            f"more than the model's {max_length}; ask for at most {max_length - length} new tokens"
        )


def check_request(request: Request, model: LoadedModel) -> None:
    """Raises `Owl2Error` for ids in the settings that there are not, and a form that cannot be had."""
    request.check_tokens(model.tokenizer.vocab_size)
    matcher_of(request, model)


def matcher_of(request: Request, model: LoadedModel) -> Matcher | None:
    """A matcher at the beginning of an answer; None when any text will do. Raises `Owl2Error`."""
    if request.structured is None:
        return None
    if request.matcher is not None:
        return request.matcher.copy()
    found = grammars_of(model.tokenizer, model.config.decoder.vocab_size)
    return found.open(request.structured, request.continues)


def known_matcher(request: Request, model: LoadedModel) -> Matcher | None:
    """As `matcher_of`, for a form that was compiled before; None for another."""
    found = grammars_of(model.tokenizer, model.config.decoder.vocab_size)
    return found.known(request.structured, request.continues)


def whole_form(
    matcher: Matcher | None, request: Request, tokenizer: Tokenizer
) -> Callable[[str], bool] | None:
    """What tells whether a text is one of the form of an answer; None where nobody needs to know.

    Args:
      matcher: at the beginning of the answer.
    """
    if matcher is None or not tokenizer.end_texts:
        return None
    beginning, space = matcher.copy(), "" if request.continues else " "
    return lambda text: beginning.accepts(tokenizer.encode(space + text, control_tokens=False))
