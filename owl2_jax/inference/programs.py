"""The compiled functions behind an engine, and which shapes they were compiled for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from owl2_jax.inference import generate, scoring
from owl2_jax.model.config import Owl2Config

# Compiled for one configuration after the other, and shared by all engines of a process.
_PLAN = ("config", "eos_id", "plain", "top")
_encode_images = jax.jit(generate.encode_images, static_argnames="config", donate_argnames="pool")
_prefill = jax.jit(generate.prefill, static_argnames=_PLAN, donate_argnames="slots")
_decode = jax.jit(generate.decode, static_argnames=(*_PLAN, "width"), donate_argnames="slots")
_log_likelihoods = jax.jit(scoring.log_likelihoods, static_argnames="config")


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
        shape = (*batch.prompts.tokens.shape, batch.prompts.image_index.shape[1])
        self.used.add(("prefill", shape, _cache_length(slots), *sorted(plan.items())))
        return self._call(_prefill, params, slots, pool, batch, **plan)

    def decode(self, params: Any, slots: Any, *limits: Any, **plan: Any) -> Any:
        self.used.add(("decode", _cache_length(slots), *sorted(plan.items())))
        return self._call(_decode, params, slots, *limits, **plan)

    def log_likelihoods(self, params: Any, pool: Any, prompts: Any, continuations: Any) -> jax.Array:
        shape = (*prompts.tokens.shape, prompts.image_index.shape[1], *continuations.tokens.shape)
        self.used.add(("log_likelihoods", shape))
        return _log_likelihoods(self.config, params, pool, prompts, continuations)

    def _call(self, function: Callable[..., Any], *args: Any, **plan: Any) -> Any:
        return function(self.config, self.eos_id, *args, **plan)


def _cache_length(slots: generate.Slots) -> int:
    return slots.cache.keys.shape[2]
