"""A model ready for use: configuration, parameters, tokenizer and how prompts are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from owl2_jax.data.tokenizer import Tokenizer
from owl2_jax.model.config import Owl2Config


@dataclass(frozen=True)
class LoadedModel:
    """What a checkpoint directory holds.

    Attributes:
      config: sizes and dtypes.
      params: nested dict of arrays.
      tokenizer: of at most `config.decoder.vocab_size` pieces; the embeddings beyond are spare.
      template: name of the conversation template.
      image_tag: what marks an image in a text.
      image_mode: how an image becomes a square: "pad", "resize" or "none".
      name: for people, for example the directory.
      mesh: where the parameters lie, when on several devices.

    Raises:
      Owl2Error: the tokenizer does not fit the model's vocabulary.
    """

    config: Owl2Config
    params: dict[str, Any]
    tokenizer: Tokenizer
    template: str = "mplug_owl2"
    image_tag: str = "<|image|>"
    image_mode: str = "resize"
    name: str = "owl2"
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        self.tokenizer.require_size(self.config.decoder.vocab_size)
