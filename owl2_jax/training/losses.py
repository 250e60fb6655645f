"""Next-token cross-entropy over supervised positions, without a float32 [B, T, V] array."""

from __future__ import annotations

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from owl2_jax.core.axes import IGNORE_LABEL

Array = jax.Array


@flax.struct.dataclass
class LossSums:
    """Sums over supervised positions, so that parts of a batch add up exactly.

    Attributes:
      loss: float32[], sum of cross-entropies in nats.
      correct: int32[], positions whose most likely token is the label.
      count: int32[], supervised positions.
    """

    loss: Array
    correct: Array
    count: Array


def next_token_targets(labels: Array, segment_ids: Array) -> Array:
    """Moves labels one position to the left, never across a segment border.

    Args:
      labels: int32[B, T], aligned with the tokens, -100 where unsupervised.
      segment_ids: int32[B, T].

    Returns:
      int32[B, T], what each position shall predict, or -100.
    """
    following = jnp.roll(labels, -1, axis=1)
    same = (segment_ids == jnp.roll(segment_ids, -1, axis=1)).at[:, -1].set(False)
    return jnp.where(same, following, IGNORE_LABEL)


def select_targets(hidden: Array, targets: Array, max_targets: int) -> tuple[Array, Array]:
    """Keeps each row's first `max_targets` supervised positions, in order.

    The head is then computed for those alone. The caller knows that no row has
    more; what a row has beyond them would be lost.

    Args:
      hidden: dtype[B, T, D]. targets: int32[B, T]. max_targets: at most T.

    Returns:
      dtype[B, max_targets, D] and int32[B, max_targets].
    """
    order = jnp.argsort(targets == IGNORE_LABEL, axis=1, stable=True)[:, :max_targets]
    return (
        jnp.take_along_axis(hidden, order[:, :, None], axis=1),
        jnp.take_along_axis(targets, order, axis=1),
    )


def cross_entropy(logits: Array, targets: Array) -> LossSums:
    """Sums of float32[..., V] logits against int32[...] targets (-100 ignored)."""
    supervised = targets != IGNORE_LABEL
    index = jnp.where(supervised, targets, 0)
    chosen = jnp.take_along_axis(logits, index[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - chosen
    return LossSums(
        loss=jnp.sum(jnp.where(supervised, losses, 0.0)),
        correct=jnp.sum(supervised & (jnp.argmax(logits, axis=-1) == index), dtype=jnp.int32),
        count=jnp.sum(supervised, dtype=jnp.int32),
    )


def chunked_cross_entropy(
    head: Callable[[Array], Array], hidden: Array, targets: Array, chunk: int
) -> LossSums:
    """`cross_entropy(head(hidden), targets)` with the logits of `chunk` positions at a time.

    Args:
      head: dtype[B, C, D] to float32[B, C, V].
      hidden: dtype[B, T, D]. targets: int32[B, T].
      chunk: C, or 0 for all at once; the tail is padded.

    Returns:
      The sums over all positions.
    """
    length = targets.shape[1]
    if not chunk or chunk >= length:
        return cross_entropy(head(hidden), targets)
    padding = -length % chunk
    hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, padding)), constant_values=IGNORE_LABEL)

    def split(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)

    # The logits of a chunk are computed again in the backward pass instead of kept.
    @jax.checkpoint
    def body(sums: LossSums, part: tuple[Array, Array]) -> tuple[LossSums, None]:
        return jax.tree.map(jnp.add, sums, cross_entropy(head(part[0]), part[1])), None

    zero = jnp.zeros((), jnp.int32)
    start = LossSums(loss=jnp.zeros((), jnp.float32), correct=zero, count=zero)
    return jax.lax.scan(body, start, (split(hidden), split(targets)))[0]
