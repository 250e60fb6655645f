"""One training step, a pure function of state and batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from owl2_jax.core import tree
from owl2_jax.model.owl2 import Owl2
from owl2_jax.training.config import TrainConfig
from owl2_jax.training.groups import LeafPlan, trained_names
from owl2_jax.training.losses import (
    LossSums,
    chunked_cross_entropy,
    next_token_targets,
    select_targets,
)
from owl2_jax.training.state import TrainState

Array = jax.Array


@flax.struct.dataclass
class DeviceBatch:
    """The arrays of a batch that a step reads; meanings as in `owl2_jax.data.batch.Batch`."""

    tokens: Array  # int32[B, T]
    positions: Array  # int32[B, T]
    segment_ids: Array  # int32[B, T]
    labels: Array  # int32[B, T]
    images: Array  # uint8[M, H, W, 3]
    image_index: Array  # int32[B, I]
    image_starts: Array  # int32[B, I]


def batch_loss(params: Any, batch: DeviceBatch, model: Owl2, config: TrainConfig) -> LossSums:
    """Sums of the next-token loss over a batch."""
    variables = {"params": params}
    hidden = model.apply(
        variables,
        batch.tokens,
        batch.positions,
        batch.segment_ids,
        batch.images,
        batch.image_index,
        batch.image_starts,
        method="hidden",
    )
    targets = next_token_targets(batch.labels, batch.segment_ids)
    if 0 < config.max_targets < targets.shape[1]:
        hidden, targets = select_targets(hidden, targets, config.max_targets)

    def head(part: Array) -> Array:
        return model.apply(variables, part, method="logits")

    return chunked_cross_entropy(head, hidden, targets, config.loss_chunk)


def gradients(
    trained: Any, frozen: Any, batch: DeviceBatch, model: Owl2, config: TrainConfig
) -> tuple[Any, LossSums]:
    """Gradient of the mean loss with respect to the trained leaves, and the sums.

    With `accumulate_steps` A the batch is computed in A equal parts; sums of
    losses are accumulated and divided once, so parts with few labels weigh
    what they should.
    """

    def loss(trained: Any, part: DeviceBatch) -> tuple[Array, LossSums]:
        sums = batch_loss(tree.combine(trained, frozen), part, model, config)
        return sums.loss, sums

    grad = jax.grad(loss, has_aux=True)
    if config.accumulate_steps == 1:
        grads, sums = grad(trained, batch)
    else:

        def body(total: Any, part: DeviceBatch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, grad(trained, part)), None

        parts = split_batch(batch, config.accumulate_steps)
        shapes = jax.eval_shape(grad, trained, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (grads, sums), _ = jax.lax.scan(body, zeros, parts)
    scale = 1.0 / jnp.maximum(sums.count, 1)
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), grads), sums


def split_batch(batch: DeviceBatch, parts: int) -> DeviceBatch:
    """[B, ...] to [A, B / A, ...] and [M, ...] to [A, M / A, ...].

    A row's pictures lie in the part of the pictures that belongs to its part
    of the rows (see `owl2_jax.data.batch.Batch`), so indices become local by
    subtracting where the part starts.
    """
    split = jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batch)
    first = jnp.arange(parts, dtype=jnp.int32)[:, None, None] * split.images.shape[1]
    local = jnp.where(split.image_index < 0, -1, split.image_index - first)
    return split.replace(image_index=local)


def train_step(
    state: TrainState,
    batch: DeviceBatch,
    *,
    model: Owl2,
    optimizer: optax.GradientTransformation,
    plans: Mapping[str, LeafPlan],
    config: TrainConfig,
) -> tuple[TrainState, dict[str, Array]]:
    """Loss, gradients and update.

    A step whose loss or gradient is not finite changes no parameter and no
    moment; it is counted in the state.

    Returns:
      The next state and scalars: loss (mean nats per supervised token),
      accuracy, targets (count), grad_norm, bad_steps, skipped.
    """
    trained, frozen = tree.partition(state.params, trained_names(plans))
    grads, sums = gradients(trained, frozen, batch, model, config)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(norm) & jnp.isfinite(sums.loss)

    updates, opt_state = optimizer.update(grads, state.opt_state, trained)
    updated = optax.apply_updates(trained, updates)

    def keep_if_bad(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

    bad = (~finite).astype(jnp.int32)
    state = TrainState(
        step=state.step + 1,
        params=tree.combine(keep_if_bad(updated, trained), frozen),
        opt_state=keep_if_bad(opt_state, state.opt_state),
        bad_steps=(state.bad_steps + 1) * bad,
        skipped=state.skipped + bad,
    )
    count = jnp.maximum(sums.count, 1)
    metrics = {
        "loss": sums.loss / count,
        "accuracy": sums.correct / count,
        "targets": sums.count,
        "grad_norm": norm,
        "bad_steps": state.bad_steps,
        "skipped": state.skipped,
    }
    return state, metrics
