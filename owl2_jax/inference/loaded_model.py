"""A model ready for use: configuration, parameters, tokenizer and how prompts are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from owl2_jax.core.prompt_format import RELEASED, PromptFormat
from owl2_jax.core.tree import Params
from owl2_jax.data.tokenizer import Tokenizer
from owl2_jax.model.config import Owl2Config


@dataclass(frozen=True)
class LoadedModel:
    """What a checkpoint directory holds.

    Attributes:
      config: sizes and dtypes.
      params: nested dict of arrays.
      tokenizer: of at most `config.decoder.vocab_size` pieces; the embeddings beyond are spare.
      prompt_format: how prompts are written for it.
      name: for people, for example the directory.
      mesh: `jax.sharding.Mesh` where the parameters lie, when on several devices, or None.

    Raises:
      Owl2Error: the tokenizer does not fit the model's vocabulary.
    """

    config: Owl2Config
    params: Params
    tokenizer: Tokenizer
    prompt_format: PromptFormat = RELEASED
    name: str = "owl2"
    mesh: Any = None

    def __post_init__(self) -> None:
        self.tokenizer.require_size(self.config.decoder.vocab_size)
