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
      classes: float32[G, 3], the same three for every class of positions.
    """

    loss: Array
    correct: Array
    count: Array
    classes: Array


def next_token_targets(labels: Array, segment_ids: Array) -> Array:
    """Moves labels one position to the left, never across a segment border.

    Args:
      labels: int32[..., T], aligned with the tokens, -100 where unsupervised.
      segment_ids: int32[..., T].

    Returns:
      int32[..., T], what each position predicts, or -100.
    """
    following = jnp.roll(labels, -1, axis=-1)
    same = (segment_ids == jnp.roll(segment_ids, -1, axis=-1)).at[..., -1].set(False)
    return jnp.where(same, following, IGNORE_LABEL)


def supervised_first(targets: Array, max_targets: int) -> Array:
    """Positions of each row's first `max_targets` supervised targets, in order.

    The head is then computed for those alone. The caller knows that no row has
    more; what a row has beyond them would be lost.

    Args:
      targets: int32[B, T]. max_targets: at most T.

    Returns:
      int32[B, max_targets], for `take_positions`.
    """
    return jnp.argsort(targets == IGNORE_LABEL, axis=1, stable=True)[:, :max_targets]


def take_positions(x: Array, order: Array) -> Array:
    """x[B, T, ...] at int32[B, C] positions of each row: [B, C, ...]."""
    return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)


def cross_entropy(
    logits: Array, targets: Array, classes: Array | None = None, num_classes: int = 0
) -> LossSums:
    """Sums of float32[..., V] logits against int32[...] targets (-100 ignored).

    Args:
      classes: int32[...], the class of each position, below `num_classes`;
        negative for none. None counts no classes.
    """
    supervised = targets != IGNORE_LABEL
    index = jnp.where(supervised, targets, 0)
    chosen = jnp.take_along_axis(logits, index[..., None], axis=-1)[..., 0]
    losses = jnp.where(supervised, jax.nn.logsumexp(logits, axis=-1) - chosen, 0.0)
    # The largest logit, not its index: an argmax over the vocabulary is slow on a CPU.
    correct = supervised & (chosen >= jnp.max(logits, axis=-1))
    return LossSums(
        loss=jnp.sum(losses),
        correct=jnp.sum(correct, dtype=jnp.int32),
        count=jnp.sum(supervised, dtype=jnp.int32),
        classes=_sum_classes(jnp.stack([losses, correct, supervised], -1), classes, num_classes),
    )


def _sum_classes(values: Array, classes: Array | None, num_classes: int) -> Array:
    """float32[..., 3] to sums per class, float32[G, 3]; no gradient flows through them."""
    if classes is None or not num_classes:
        return jnp.zeros((0, 3), jnp.float32)
    member = jax.nn.one_hot(classes.reshape(-1), num_classes, dtype=jnp.float32)
    values = jax.lax.stop_gradient(values.reshape(-1, 3).astype(jnp.float32))
    return jnp.matmul(member.T, values, precision=jax.lax.Precision.HIGHEST)


def chunked_cross_entropy(
    head: Callable[[Array], Array],
    hidden: Array,
    targets: Array,
    chunk: int,
    classes: Array | None = None,
    num_classes: int = 0,
) -> LossSums:
    """`cross_entropy(head(hidden), targets, ...)` with the logits of `chunk` positions at a time.

    Args:
      head: dtype[B, C, D] to float32[B, C, V].
      hidden: dtype[B, T, D]. targets, classes: int32[B, T].
      chunk: C, or 0 for all at once; the tail is padded.

    Returns:
      The sums over all positions.
    """
    length = targets.shape[1]
    if not chunk or chunk >= length:
        return cross_entropy(head(hidden), targets, classes, num_classes)

    def split(x: Array, fill: int) -> Array:
        widths = [(0, 0), (0, -length % chunk)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, widths, constant_values=fill)
        return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)

    # The logits of a chunk are computed again in the backward pass instead of kept.
    @jax.checkpoint
    def body(sums: LossSums, part: tuple[Array, Array, Array | None]) -> tuple[LossSums, None]:
        found = cross_entropy(head(part[0]), part[1], part[2], num_classes)
        return jax.tree.map(jnp.add, sums, found), None

    zero = jnp.zeros((), jnp.int32)
    rows = num_classes if classes is not None else 0
    loss = jnp.zeros((), jnp.promote_types(hidden.dtype, jnp.float32))
    start = LossSums(loss, zero, zero, jnp.zeros((rows, 3), jnp.float32))
    parts = (
        split(hidden, 0),
        split(targets, IGNORE_LABEL),
        None if classes is None else split(classes, -1),
    )
    return jax.lax.scan(body, start, parts)[0]
