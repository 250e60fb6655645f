"""Prompts of completions as the engine takes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.sampling.params import check_token_ids
from owl2_jax.serving.errors import ApiError
from owl2_jax.serving.sampling_fields import about
from owl2_jax.serving.text_calls import TextCall


@dataclass(frozen=True)
class TextPrompt:
    """A prompt.

    Attributes:
      ids: int32[n].
      text: what it says.
      room: most tokens of an answer.
      continues: some text stands at its end, with which the answer goes on.
    """

    ids: np.ndarray
    text: str
    room: int
    continues: bool


def read_prompts(call: TextCall, model: LoadedModel, most_text: int) -> list[TextPrompt]:
    """The prompts of a call; texts of more than `most_text` characters are not counted in tokens.

    Raises:
      ApiError: ids that there are not, or a prompt that leaves no room for an answer.
    """
    many = len(call.prompts) > 1
    with about("prompt"):
        return [
            _read_prompt(f"prompt[{place}]" if many else "prompt", prompt, model, most_text)
            for place, prompt in enumerate(call.prompts)
        ]


def _read_prompt(where: str, prompt: str | tuple[int, ...], model: LoadedModel, most_text: int) -> TextPrompt:
    tokenizer, longest = model.tokenizer, model.config.decoder.max_length
    if isinstance(prompt, str):
        if len(prompt) > most_text:
            raise _too_long(where, f"{len(prompt)} characters", longest)
        ids = tokenizer.encode(prompt, bos=True, control_tokens=False)
        text = prompt
    else:
        if len(prompt) >= longest:
            raise _too_long(where, f"{len(prompt)} tokens", longest)
        check_token_ids(where, prompt, tokenizer.vocab_size)
        ids, text = list(prompt), tokenizer.decode(prompt)
    if len(ids) >= longest:
        raise _too_long(where, f"{len(ids)} tokens", longest)
    if not ids:
        raise Owl2Error(f"{where} is empty; expected some text, as this tokenizer puts nothing in front")
    continues = not tokenizer.is_special(ids[-1])
    return TextPrompt(np.array(ids, np.int32), text, longest - len(ids), continues)


def _too_long(where: str, found: str, longest: int) -> Owl2Error:
    return ApiError(
        f"{where} has {found}; the model takes {longest} tokens, those of the answer included",
        code="context_length_exceeded",
        param="prompt",
    )
