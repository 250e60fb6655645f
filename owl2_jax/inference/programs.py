"""The compiled functions behind an engine, and which shapes they were compiled for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from owl2_jax.core.host_memory import collapse_into_huge_pages
from owl2_jax.inference import beam, generate, scoring
from owl2_jax.inference.loaded import LoadedModel
from owl2_jax.inference.unrolled import UnrolledOwl2, unstack_layers
from owl2_jax.model.owl2 import Owl2
from owl2_jax.parallel.rules import activate

# Shared by all engines of a process, so that a second one of a model compiles nothing.
_PLAN = ("owl", "eos_id", "plain", "top")
_empty_slots = jax.jit(generate.empty_slots, static_argnames=("owl", "count", "length"))
_lengthen = jax.jit(generate.lengthen, static_argnames="length")
_encode_images = jax.jit(generate.encode_images, static_argnames="owl", donate_argnames="pool")
_prefill = jax.jit(generate.prefill, static_argnames=_PLAN, donate_argnames="slots")
_prefill_rest = jax.jit(generate.prefill_rest, static_argnames=_PLAN, donate_argnames="slots")
_decode = jax.jit(generate.decode, static_argnames=(*_PLAN, "width"), donate_argnames="slots")
_beam_search = jax.jit(beam.search, static_argnames=("owl", "eos_id", "beams", "width"))
_log_likelihoods = jax.jit(scoring.log_likelihoods, static_argnames="owl")


class Programs:
    """The functions of `generate` and `scoring` for one model, on its mesh.

    Attributes:
      used: name, shapes and static choices of every program that runs the model.
    """

    def __init__(self, model: LoadedModel):
        self.used: set[tuple] = set()
        self._eos_id = model.tokenizer.eos_id
        self._mesh = model.mesh
        self._owl, self._params = prepare(model)

    def empty_slots(self, count: int, length: int) -> generate.Slots:
        with self._on_mesh():
            return self._settled(_empty_slots(self._owl, count, length))

    def lengthen(self, slots: generate.Slots, length: int) -> generate.Slots:
        with self._on_mesh():
            return self._settled(_lengthen(slots, length))

    def encode_images(self, pool: Any, images: np.ndarray, rows: np.ndarray) -> jax.Array:
        self.used.add(("encode_images", images.shape, images.dtype.str))
        with self._on_mesh():
            return _encode_images(self._owl, self._params, pool, images, rows)

    def prefill(self, slots: Any, pool: Any, arrivals: Any, **plan: Any) -> tuple[Any, generate.Chosen]:
        shape = (*arrivals.prompts.tokens.shape, arrivals.prompts.image_index.shape[1])
        self.used.add(("prefill", shape, slots.length, *sorted(plan.items())))
        with self._on_mesh():
            return _prefill(self._owl, self._eos_id, self._params, slots, pool, arrivals, **plan)

    def prefill_rest(
        self, slots: Any, pool: Any, arrivals: Any, copies: Any, **plan: Any
    ) -> tuple[Any, generate.Chosen]:
        shape = (*arrivals.prompts.tokens.shape, arrivals.prompts.image_index.shape[1])
        self.used.add(("prefill_rest", shape, slots.length, *sorted(plan.items())))
        with self._on_mesh():
            return _prefill_rest(self._owl, self._eos_id, self._params, slots, pool, arrivals, copies, **plan)

    def decode(self, slots: Any, *limits: Any, **plan: Any) -> tuple[Any, generate.Chosen, Any]:
        self.used.add(("decode", slots.length, *sorted(plan.items())))
        with self._on_mesh():
            return _decode(self._owl, self._eos_id, self._params, slots, *limits, **plan)

    def log_likelihoods(self, pool: Any, prompts: Any, continuations: Any) -> jax.Array:
        shape = (*prompts.tokens.shape, prompts.image_index.shape[1], *continuations.tokens.shape)
        self.used.add(("log_likelihoods", shape))
        with self._on_mesh():
            return _log_likelihoods(self._owl, self._params, pool, prompts, continuations)

    def beam_search(self, pool: Any, prompts: Any, *settings: Any, **sizes: int) -> beam.Hypotheses:
        shape = (*prompts.tokens.shape, prompts.image_index.shape[1])
        self.used.add(("beam_search", shape, *sorted(sizes.items())))
        with self._on_mesh():
            return _beam_search(self._owl, self._eos_id, self._params, pool, prompts, *settings, **sizes)

    def _settled(self, slots: generate.Slots) -> generate.Slots:
        """New slots; every later program writes into the same memory."""
        if isinstance(self._owl, UnrolledOwl2):
            collapse_into_huge_pages([*slots.cache.keys, *slots.cache.values])
        return slots

    @contextlib.contextmanager
    def _on_mesh(self) -> Iterator[None]:
        """What has to hold while a program is traced."""
        mesh = contextlib.nullcontext() if self._mesh is None else activate(self._mesh)
        with mesh:
            yield


def prepare(model: LoadedModel) -> tuple[Owl2, dict[str, Any]]:
    """The module to run and its parameters.

    On a CPU the layers are taken apart: a step of the layer scan copies the
    weights that it slices, which costs a third of a decode step there.
    """
    config, pieces = model.config.replace(remat="none"), model.tokenizer.vocab_size
    if model.mesh is None and jax.default_backend() == "cpu":
        params = jax.tree.map(jnp.asarray, unstack_layers(model.params))
        collapse_into_huge_pages(jax.tree.leaves(params))
        return UnrolledOwl2(config, pieces), params
    return Owl2(config, pieces), model.params
