"""How a model's prompts are written, by name: what `model.json` holds beside the model itself.

The room `data` knows what the names mean; here are only the names, because
conversion and checkpoints carry them without knowing any template.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

IMAGE_TAG: Final = "<|image|>"


@dataclass(frozen=True)
class PromptFormat:
    """How the prompts of one model are written; by default as for the released checkpoints.

    Attributes:
      template: how a dialogue becomes text, a name of `owl2_jax.data.templates.TEMPLATES`.
      image_tag: what marks an image in a text.
      image_mode: how an image becomes a square, a name of `owl2_jax.data.images.MODES`.
    """

    template: str = "mplug_owl2"
    image_tag: str = IMAGE_TAG
    image_mode: str = "resize"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PromptFormat:
        """The format among other settings, as of `model.json`; what is absent has its default."""
        return cls(**{f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values})

    def with_tag(self, image_tag: str) -> PromptFormat:
        """The same with another mark for images."""
        return dataclasses.replace(self, image_tag=image_tag)

    def as_dict(self) -> dict[str, str]:
        """{name of the field: value}."""
        return dataclasses.asdict(self)


RELEASED: Final = PromptFormat()  # of the released checkpoints
