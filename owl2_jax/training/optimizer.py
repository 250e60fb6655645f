"""AdamW over parameter groups, built from the spec of each leaf."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from owl2_jax.core import tree
from owl2_jax.core.tree import PyTree
from owl2_jax.training.config import OptimizerConfig, ScheduleConfig, TrainConfig
from owl2_jax.training.param_groups import ParamSpec

Schedule = Callable[[jax.Array], jax.Array]


def schedule(config: ScheduleConfig, num_steps: int) -> Schedule:
    """Linear warm-up from 0 to the peak, then a cosine that reaches `end_lr` at `num_steps`."""
    warmup = min(config.warmup_steps, num_steps)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else config.peak_lr,
        peak_value=config.peak_lr,
        warmup_steps=warmup,
        decay_steps=max(num_steps, warmup + 1),
        end_value=config.end_lr,
    )


def make_optimizer(
    config: TrainConfig, specs: Mapping[str, ParamSpec]
) -> optax.GradientTransformationExtraArgs:
    """Clip by global norm, Adam, decoupled decay and learning rate per leaf.

    The transformation works on the tree of trained leaves alone, so frozen
    leaves have neither gradient nor state. Its update takes `finite`, bool[]:
    where it is not, the state stays what it was.
    """
    norm = config.optimizer.clip_norm
    return optax.chain(
        optax.identity() if norm is None else _clip(norm),
        _adam(config.optimizer),
        _scale_by_spec(config, specs),
    )


def _clip(most: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` with one factor: quotients would be written before they are read."""

    def scale(grads: optax.Updates, _: optax.Params | None = None) -> optax.Updates:
        factor = jnp.minimum(1.0, most / optax.tree.norm(grads))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)

    return optax.stateless(scale)


def _adam(config: OptimizerConfig) -> optax.GradientTransformationExtraArgs:
    """`optax.scale_by_adam`; its update is computed of the new moments once these are written.

    Else it would be computed of the old ones, whose place the new ones could then not take: a CPU copies
    all of them first.
    """
    adam = optax.scale_by_adam(mu_dtype=jnp.dtype(config.first_moment_dtype))

    def update(
        grads: optax.Updates,
        state: optax.ScaleByAdamState,
        params: optax.Params | None = None,
        *,
        finite: jax.Array | bool = True,
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        del params
        mu = optax.tree.update_moment(grads, state.mu, config.b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(grads, state.nu, config.b2, 2)
        mu, nu = (
            _settled(optax.tree.where(finite, *pair), pair[1]) for pair in ((mu, state.mu), (nu, state.nu))
        )
        count = state.count + 1
        new = optax.ScaleByAdamState(
            count=jnp.where(finite, count, state.count),
            mu=optax.tree.cast_like(mu, state.mu),
            nu=optax.tree.cast_like(nu, state.nu),
        )
        mu = optax.tree.bias_correction(mu, config.b1, count)
        nu = optax.tree.bias_correction(nu, config.b2, count)
        return jax.tree.map(lambda m, n: m / (jnp.sqrt(n) + config.eps), mu, nu), new

    return optax.GradientTransformationExtraArgs(adam.init, update)


def _settled(new: PyTree, old: PyTree) -> PyTree:
    """Writes what takes the place of `old` before anything reads it; not what is narrowed for that."""
    return jax.tree.map(lambda n, o: jax.lax.optimization_barrier(n) if n.dtype == o.dtype else n, new, old)


def _scale_by_spec(
    config: TrainConfig, specs: Mapping[str, ParamSpec]
) -> optax.GradientTransformationExtraArgs:
    """`-(rate * multiplier) * (update + decay * parameter)`, leaf by leaf.

    `optax.multi_transform` would keep a state per group: a run could not go on
    from a checkpoint after its groups were split or renamed.
    """
    run = schedule(config.schedule, config.num_steps)
    own = {
        group.name: schedule(group.schedule, config.num_steps) for group in config.groups if group.schedule
    }

    def init(params: optax.Params) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(
        updates: optax.Updates,
        state: optax.ScaleByScheduleState,
        params: optax.Params | None = None,
        *,
        finite: jax.Array | bool = True,
    ) -> tuple[optax.Updates, optax.ScaleByScheduleState]:
        rates = {name: rule(state.count) for name, rule in own.items()}
        default = run(state.count)
        flat_params = tree.flatten(params)
        scaled = {}
        for name, value in tree.flatten(updates).items():
            spec = specs[name]
            rate = rates.get(spec.group.name, default)
            if spec.weight_decay:
                value = value + spec.weight_decay * flat_params[name]
            scaled[name] = (-rate * spec.lr_multiplier * value).astype(flat_params[name].dtype)
        new = optax.ScaleByScheduleState(count=state.count + 1)
        return tree.unflatten(scaled), optax.tree.where(finite, new, state)

    return optax.GradientTransformationExtraArgs(init, update)
