"""One training step, a pure function of state and batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.struct
import jax
import jax.numpy as jnp
import optax

from owl2_jax.core import tree
from owl2_jax.core.axes import IGNORE_LABEL
from owl2_jax.core.tree import Params, PyTree
from owl2_jax.model.owl2 import Owl2
from owl2_jax.training.config import TrainConfig
from owl2_jax.training.losses import (
    LossSums,
    chunked_cross_entropy,
    next_token_targets,
    supervised_first,
    take_positions,
)
from owl2_jax.training.param_groups import ParamSpec, trained_names
from owl2_jax.training.state import TrainState

Array = jax.Array


@flax.struct.dataclass
class DeviceBatch:
    """The arrays of a batch that a step reads; meanings as in `owl2_jax.data.batch.Batch`.

    With gradient accumulation every array has a leading axis of its parts, and
    `image_index` counts the images of its own part.
    """

    tokens: Array  # int32[B, T]
    positions: Array  # int32[B, T]
    segment_ids: Array  # int32[B, T]
    labels: Array  # int32[B, T]
    images: Array  # uint8[M, H, W, 3]
    image_index: Array  # int32[B, I]
    image_starts: Array  # int32[B, I]
    dataset_ids: Array | None = None  # int32[B, T]; None where no set is told from another


def batch_loss(
    params: Params,
    batch: DeviceBatch,
    model: Owl2,
    config: TrainConfig,
    num_datasets: int = 0,
    dropout: Array | None = None,
    max_targets: int = 0,
) -> LossSums:
    """Sums of the next-token loss over a batch.

    Args:
      dropout: the key of a training step's dropout.
      max_targets: `data.max_targets`, the most supervised positions of a row; no more get logits (0: all).
    """
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
        rngs=None if dropout is None else {"dropout": dropout},
    )
    targets = next_token_targets(batch.labels, batch.segment_ids)
    classes = None if batch.dataset_ids is None else sample_classes(batch)
    if 0 < max_targets < targets.shape[1]:
        order = supervised_first(targets, max_targets)
        hidden, targets = take_positions(hidden, order), take_positions(targets, order)
        classes = None if classes is None else take_positions(classes, order)

    def head(part: Array) -> Array:
        return model.apply(variables, part, method="logits")

    return chunked_cross_entropy(head, hidden, targets, config.loss_chunk, classes, 2 * num_datasets)


def count_targets(batch: DeviceBatch) -> Array:
    """int32[], supervised positions of a whole batch."""
    targets = next_token_targets(batch.labels, batch.segment_ids)
    return jnp.sum(targets != IGNORE_LABEL, dtype=jnp.int32)


def sample_classes(batch: DeviceBatch) -> Array:
    """2 * data set + (1 where the position's sample has an image), int32[B, T]; negative for padding."""
    starts = jnp.take_along_axis(batch.segment_ids, batch.image_starts, axis=1)
    imaged = jnp.where(batch.image_index < 0, -1, starts)  # int32[B, I], segments with an image
    has_image = jnp.any(batch.segment_ids[:, :, None] == imaged[:, None, :], axis=-1)
    return 2 * batch.dataset_ids + has_image


def gradients(
    trained: Params,
    frozen: Params,
    batch: DeviceBatch,
    model: Owl2,
    config: TrainConfig,
    num_datasets: int = 0,
    dropout: Array | None = None,
    max_targets: int = 0,
) -> tuple[Params, LossSums]:
    """Gradient of the mean loss with respect to the trained leaves, and the sums.

    With `accumulate_steps` A the batch has A equal parts. The loss of each is
    divided by the targets of all, so parts with few labels weigh what they
    should.
    """
    scale = 1.0 / jnp.maximum(count_targets(batch), 1)

    def loss(trained: Params, part: DeviceBatch, key: Array | None) -> tuple[Array, LossSums]:
        params = tree.combine(trained, frozen)
        sums = batch_loss(params, part, model, config, num_datasets, key, max_targets)
        return sums.loss * scale, sums  # here, as to scale gradients is a pass over all of them

    grad = jax.grad(loss, has_aux=True)
    if config.accumulate_steps == 1:
        return grad(trained, batch, dropout)
    keys = None if dropout is None else jax.random.split(dropout, config.accumulate_steps)
    return _accumulate(grad, trained, batch, keys)


def _accumulate(
    grad: Callable[..., tuple[Params, LossSums]], trained: Params, batch: DeviceBatch, keys: Array | None
) -> tuple[Params, LossSums]:
    """Sum of `grad` over the leading axis of the batch; gradients add up in float32 at least."""

    def evaluate(part: tuple[DeviceBatch, Array | None]) -> tuple[Params, LossSums]:
        grads, sums = grad(trained, *part)
        return jax.tree.map(lambda g: g.astype(jnp.promote_types(g.dtype, jnp.float32)), grads), sums

    def body(total: PyTree, part: tuple[DeviceBatch, Array | None]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, evaluate(part)), None

    parts = (batch, keys)
    shapes = jax.eval_shape(evaluate, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(body, zeros, parts)[0]


def train_step(
    state: TrainState,
    batch: DeviceBatch,
    *,
    model: Owl2,
    optimizer: optax.GradientTransformationExtraArgs,
    specs: Mapping[str, ParamSpec],
    config: TrainConfig,
    num_datasets: int = 0,
    max_targets: int = 0,
) -> tuple[TrainState, dict[str, Array]]:
    """Loss, gradients and update.

    A step whose loss or gradient is not finite changes no parameter and no
    moment; it is counted in the state.

    Returns:
      The next state, and of this step: loss (mean nats per supervised token),
      accuracy, targets (their count), classes (float32[2 * num_datasets, 3],
      sums of loss, correct and count, see `sample_classes`), grad_norm,
      bad_steps, skipped, and `batch_counts`.
    """
    trained, frozen = tree.partition(state.params, trained_names(specs))
    key = dropout_key(model, config, state.step)
    grads, sums = gradients(trained, frozen, batch, model, config, num_datasets, key, max_targets)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(norm) & jnp.isfinite(sums.loss)

    updates, opt_state = optimizer.update(grads, state.opt_state, trained, finite=finite)
    updated = optax.apply_updates(trained, updates)
    updated = optax.tree.where(finite, updated, trained)
    bad = (~finite).astype(jnp.int32)
    state = TrainState(
        step=state.step + 1,
        params=tree.combine(updated, frozen),
        opt_state=opt_state,
        bad_steps=(state.bad_steps + 1) * bad,
        skipped=state.skipped + bad,
    )
    count = jnp.maximum(sums.count, 1)
    metrics = {
        "loss": sums.loss / count,
        "accuracy": sums.correct / count,
        "targets": sums.count,
        "classes": sums.classes,
        "grad_norm": norm,
        "bad_steps": state.bad_steps,
        "skipped": state.skipped,
        **batch_counts(batch),
    }
    return state, metrics


def dropout_key(model: Owl2, config: TrainConfig, step: Array) -> Array | None:
    """The key of a step's dropout, a function of seed and step alone; None without dropout."""
    lora = model.config.lora
    if lora is None or not lora.dropout:
        return None
    return jax.random.fold_in(jax.random.key(config.seed), step)


def batch_counts(batch: DeviceBatch) -> dict[str, Array]:
    """int32[] of a whole batch: tokens (no padding), positions, samples, images."""
    return {
        "tokens": jnp.sum(batch.segment_ids > 0, dtype=jnp.int32),
        "positions": jnp.asarray(batch.segment_ids.size, jnp.int32),
        "samples": jnp.sum(jnp.max(batch.segment_ids, axis=-1), dtype=jnp.int32),
        "images": jnp.sum(batch.image_index >= 0, dtype=jnp.int32),
    }
