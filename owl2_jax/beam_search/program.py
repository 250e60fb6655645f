"""What the device does in a step of a search: one token of every answer, and the likeliest behind it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from owl2_jax.core.tree import Params
from owl2_jax.model.owl2 import Owl2
from owl2_jax.model.pages import PagedBatch, Pages

Array = jax.Array


def extend(
    owl: Owl2, eos_id: int, count: int, params: Params, pages: Pages, pool: Array, tokens: Array,
    features: Array, batch: PagedBatch, early: Array,
) -> tuple[Pages, Array, Array]:  # fmt: skip
    """Runs one token of each of S rows, and finds the likeliest behind it.

    Args:
      count: C.
      tokens, features: int32[S], see `Owl2.step`.
      early: bool[S], rows that may not end yet.

    Returns:
      Pages, log-probabilities float32[S, C] and tokens int32[S, C], best first.
    """
    hidden, pages = owl.apply({"params": params}, tokens, pool, features, pages, batch, method="step")
    logprobs = jax.nn.log_softmax(owl.apply({"params": params}, hidden, method="logits"), axis=-1)
    ends = jnp.where(early, -jnp.inf, logprobs[:, eos_id])
    found, places = lax.top_k(logprobs.at[:, eos_id].set(ends), min(count, logprobs.shape[1]))
    return pages, found, places


EXTEND = jax.jit(extend, static_argnums=(0, 1, 2), donate_argnums=4)
