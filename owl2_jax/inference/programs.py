"""The compiled functions behind an engine, and which shapes they were compiled for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from owl2_jax.inference import generate
from owl2_jax.model.config import Owl2Config

# Compiled for one configuration after the other, and shared by all engines of a process.
_PLAN = ("config", "eos_id", "plain", "top")
_encode_images = jax.jit(generate.encode_images, static_argnames="config", donate_argnames="pool")
_prefill = jax.jit(generate.prefill, static_argnames=_PLAN, donate_argnames="slots")
_decode = jax.jit(generate.decode, static_argnames=(*_PLAN, "width"), donate_argnames="slots")

# Running a larger program that exists beats compiling a smaller one, up to this factor of size.
_WORTH_REUSING = 2.5


class PromptShape(NamedTuple):
    """Static sizes of a prefill: R prompts of T positions with I image slots each."""

    rows: int
    length: int
    width: int

    def holds(self, other: PromptShape) -> bool:
        """Text without pictures only goes with its like, so that it costs no image work."""
        return (
            self.rows >= other.rows
            and self.length >= other.length
            and self.width >= other.width
            and bool(self.width) == bool(other.width)
        )

    @property
    def size(self) -> int:
        return self.rows * self.length


class Programs:
    """The functions of `generate` for one model.

    Attributes:
      used: name, shapes and static choices of every program called.
    """

    def __init__(self, config: Owl2Config, eos_id: int):
        self.config = config.replace(remat="none")
        self.eos_id = eos_id
        self.used: set[tuple] = set()

    def encode_images(self, params: Any, pool: Any, images: Any, rows: Any) -> jax.Array:
        self.used.add(("encode_images", images.shape, images.dtype.str))
        return _encode_images(self.config, params, pool, images, rows)

    def prefill(self, params: Any, slots: Any, pool: Any, batch: Any, **plan: Any) -> Any:
        shape = PromptShape(*batch.tokens.shape, batch.image_index.shape[1])
        self.used.add(("prefill", shape, _cache_length(slots), *sorted(plan.items())))
        return self._call(_prefill, params, slots, pool, batch, **plan)

    def decode(self, params: Any, slots: Any, *limits: Any, **plan: Any) -> Any:
        self.used.add(("decode", _cache_length(slots), *sorted(plan.items())))
        return self._call(_decode, params, slots, *limits, **plan)

    def prompt_shape(self, wanted: PromptShape, slots: Any, plan: dict[str, Any]) -> PromptShape:
        """The shape to pad a batch of prompts to: a compiled one when a fitting one exists."""
        rest = (_cache_length(slots), *sorted(plan.items()))
        compiled = (key[1] for key in self.used if key[0] == "prefill" and key[2:] == rest)
        fitting = [s for s in compiled if s.holds(wanted) and s.size <= _WORTH_REUSING * wanted.size]
        return min(fitting, key=lambda shape: shape.size, default=wanted)

    def _call(self, function: Callable[..., Any], *args: Any, **plan: Any) -> Any:
        return function(self.config, self.eos_id, *args, **plan)


def _cache_length(slots: generate.Slots) -> int:
    return slots.cache.keys.shape[2]
