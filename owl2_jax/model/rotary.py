"""Rotary positions, and what a decoder does beyond the length that it was trained at.

Two rules of Qwen's decoder, in evaluation alone. Both look at a token's own
sequence and never at the padding or the rows around it:

* Dynamic NTK: a prompt of n keys that is longer than the trained length L turns
  more slowly. With the smallest k >= 0 for which n <= L * 2**k, the base is
  multiplied by `(2**(k + 1) - 1) ** (H / (H - 2))`. What is generated after the
  prompt goes on with the prompt's base, so that its keys still fit.
* log-n: the query at index i, from 1, is multiplied by log(i) / log(L) where i > L.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from owl2_jax.model.config import DecoderConfig

Array = jax.Array


def rope_angles(positions: Array, head_dim: int, theta: float | Array) -> tuple[Array, Array]:
    """Sine and cosine of the rotary embedding.

    Args:
      positions: int32[B, T].
      theta: the base; one for all tokens, or float[B, T].

    Returns:
      (sin, cos), each float32[B, T, 1, H / 2].
    """
    # `float` is float32, or float64 where JAX computes in that.
    exponents = jnp.arange(0, head_dim, 2, dtype=float) / head_dim
    base = theta[..., None, None] if isinstance(theta, jax.Array) else theta
    angles = positions[..., None, None].astype(float) * base**-exponents
    return jnp.sin(angles), jnp.cos(angles)


def apply_rope(x: Array, sin: Array, cos: Array, by_product: bool = False) -> Array:
    """Applies the rotary embedding in LLaMA's half-rotation layout to x[B, T, N, H].

    Args:
      sin, cos: from `rope_angles`, or of both halves, which by a product is what is needed.
      by_product: turn the halves with a product instead of cutting and joining
        them. The numbers are the same; a TPU holds 128 channels side by side in a
        register, where halves of 64 fill only half of each.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    if by_product:
        # Every column holds a single 1 or -1, so the product is exact.
        turned = jnp.matmul(x, _quarter_turn(x.shape[-1]).astype(x.dtype), precision="highest")
        sin, cos = (over_both_halves(angle, x.shape[-1]) for angle in (sin, cos))
        return (x.astype(wide) * cos + turned.astype(wide) * sin).astype(x.dtype)
    first, second = jnp.split(x.astype(wide), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


def rotate_pairs(
    q: Array, k: Array, v: Array, sin: Array, cos: Array, query_scale: Array | None
) -> tuple[Array, Array]:
    """Applies the rotary embedding to queries x[B, T, N, H] and keys x[B, T, K, H] by a single product.

    Values go through it unturned, as heads that belong together lie side by side where one product has
    made them, and a key and its value where pages hold them. The numbers are those of `apply_rope`.

    Args:
      v: as k.
      sin, cos: from `rope_angles`, or of both halves.
      query_scale: from the function of that name, or None.

    Returns:
      Queries x[B, T, N, H], and [B, T, 2 K, H]: of every head its key, then its value.
    """
    *tokens, heads, width = k.shape
    groups = q.shape[-2] // heads
    grouped = q.reshape(*tokens, heads, groups, width)
    together = jnp.concatenate([grouped, k[..., None, :], v[..., None, :]], axis=-2)
    is_turned = jnp.asarray([[1.0]] * (groups + 1) + [[0.0]], sin.dtype)
    turned = is_turned
    if query_scale is not None:
        is_query = jnp.asarray([[1.0]] * groups + [[0.0]] * 2, sin.dtype)
        turned = jnp.where(is_query > 0, query_scale[..., None], is_turned)
    sin, cos = (over_both_halves(angle, width)[..., None, :] for angle in (sin, cos))
    rotated = apply_rope(together, sin * turned, cos * turned + (1.0 - is_turned), by_product=True)
    pairs = rotated[..., groups:, :].reshape(*tokens, 2 * heads, width)
    return rotated[..., :groups, :].reshape(q.shape), pairs


def rolled_angles(sin: Array, cos: Array, width: int) -> tuple[Array, Array]:
    """What turns channels x[..., H = width] that are also rolled by half: `x * cos + roll(x, H / 2) * sin`.

    Args:
      sin, cos: float32[B, T, 1, H / 2], from `rope_angles`, or of both halves.

    Returns:
      float32[B, T, H] each.
    """
    sin, cos = (angle[:, :, 0, : width // 2] for angle in (sin, cos))
    return jnp.concatenate([-sin, sin], axis=-1), jnp.concatenate([cos, cos], axis=-1)


def over_both_halves(angle: Array, width: int) -> Array:
    """An angle's sine or cosine [..., H / 2] for all H = `width` channels; one that has them stays."""
    return angle if angle.shape[-1] == width else jnp.concatenate([angle, angle], axis=-1)


def _quarter_turn(width: int) -> np.ndarray:
    """What takes [first, second] to [-second, first]: float32[H, H]."""
    half = np.eye(width // 2, dtype=np.float32)
    none = np.zeros_like(half)
    return np.block([[none, half], [-half, none]])


def doublings(decoder: DecoderConfig, prompt_length: int) -> int:
    """k of dynamic NTK for a prompt of so many keys: keys of equal k are rotated alike."""
    if not decoder.dynamic_ntk or decoder.trained_length is None:
        return 0
    # Whole numbers, so that a length on the border falls on its side of it.
    count = 0
    while decoder.trained_length << count < prompt_length:
        count += 1
    return count


def rotary_base(decoder: DecoderConfig, prompt_lengths: Array | None) -> float | Array:
    """The base of each token's rotary angles.

    Args:
      prompt_lengths: int32[B, T], keys of the prompt that a token belongs to or
        follows; None in training.

    Returns:
      A number where all are the same, or float[B, T].
    """
    if prompt_lengths is None or not decoder.dynamic_ntk or decoder.trained_length is None:
        return decoder.rope_theta
    most = doublings(decoder, decoder.max_length)
    borders = np.array([decoder.trained_length << k for k in range(most)], np.int32)
    chosen = jnp.sum(prompt_lengths[..., None] > borders, axis=-1, dtype=jnp.int32)
    power = decoder.head_dim / (decoder.head_dim - 2)
    bases = [decoder.rope_theta * (2 ** (k + 1) - 1) ** power for k in range(most + 1)]
    return jnp.asarray(bases, float)[chosen]


def query_scale(decoder: DecoderConfig, positions: Array, prompt_lengths: Array | None) -> Array | None:
    """log-n: what queries are multiplied by, float[B, T, 1, 1]; None where nothing is.

    Args:
      positions: int32[B, T].
      prompt_lengths: as of `rotary_base`; None in training.
    """
    if prompt_lengths is None or not decoder.logn or decoder.trained_length is None:
        return None
    scale = jnp.log(positions.astype(float) + 1) / math.log(decoder.trained_length)
    return jnp.where(positions >= decoder.trained_length, scale, 1.0)[..., None, None]
