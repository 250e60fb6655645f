"""What top-k, top-p and min-p leave of a distribution, on the device, without a sort.

Thresholds are found by bisection over the bits of the probabilities, since a sort is slow for a
large vocabulary; tokens that tie with the threshold are all kept. A rule that no row asks for is
skipped, which changes no bit: for a row that does not ask for it, it keeps everything.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def truncate(logits: Array, top_k: Array, top_p: Array, min_p: Array) -> Array:
    """Sets what the rules leave out to -inf.

    Args:
      logits: float32[S, V], divided by the temperature.
      top_k: int32[S], 0 for all.
      top_p, min_p: float32[S]; 1 and 0 for all.
    """
    asked = jnp.any((top_k > 0) | (top_p < 1) | (min_p > 0))
    return lax.cond(asked, _truncate, lambda logits, *_: logits, logits, top_k, top_p, min_p)


def _truncate(logits: Array, top_k: Array, top_p: Array, min_p: Array) -> Array:
    probabilities = jax.nn.softmax(logits, axis=-1)
    everything = jnp.ones(logits.shape, bool)
    keep = lax.cond(jnp.any(top_k > 0), _likeliest_k, lambda *_: everything, probabilities, top_k)
    left = jnp.where(keep, probabilities, 0.0)
    keep &= lax.cond(jnp.any(top_p < 1), _likeliest_p, lambda *_: everything, left, top_p)
    floor = min_p[:, None] * probabilities.max(-1, keepdims=True)
    return jnp.where(keep & (probabilities >= floor), logits, -jnp.inf)


def _likeliest_k(probabilities: Array, top_k: Array) -> Array:
    vocabulary = probabilities.shape[-1]
    k = jnp.where(top_k > 0, jnp.minimum(top_k, vocabulary), vocabulary)
    return _reaching(probabilities, jnp.ones_like(probabilities), k.astype(jnp.float32))


def _likeliest_p(left: Array, top_p: Array) -> Array:
    # top_p = 1 must keep all, whatever a float sum of probabilities comes to.
    wanted = jnp.where(top_p < 1, top_p * left.sum(-1), jnp.inf)
    return _reaching(left, left, wanted)


def _reaching(values: Array, weights: Array, wanted: Array) -> Array:
    """The largest values whose weights sum to at least `wanted`: bool[S, V].

    Bits of non-negative floats are ordered as the floats are, so 31 halvings of
    an integer interval find the threshold exactly. When even all values
    do not reach `wanted`, all are kept.
    """
    bits = lax.bitcast_convert_type(values, jnp.int32)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # low reaches (or is 0), high does not
        middle = low + (high - low) // 2
        enough = jnp.sum(jnp.where(bits >= middle[:, None], weights, 0.0), axis=-1) >= wanted
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    rows = values.shape[0]
    bounds = jnp.zeros((rows,), jnp.int32), jnp.full((rows,), 0x7F800000, jnp.int32)
    low, _ = lax.fori_loop(0, 31, halve, bounds)
    return bits >= low[:, None]
