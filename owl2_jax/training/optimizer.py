"""AdamW over parameter groups, built from the spec of each leaf."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from owl2_jax.core import tree
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


def make_optimizer(config: TrainConfig, specs: Mapping[str, ParamSpec]) -> optax.GradientTransformation:
    """Clip by global norm, Adam, decoupled decay and learning rate per leaf.

    The transformation works on the tree of trained leaves alone, so frozen
    leaves have neither gradient nor state.
    """
    norm = config.optimizer.clip_norm
    return optax.chain(
        optax.identity() if norm is None else optax.clip_by_global_norm(norm),
        _adam(config.optimizer),
        _scale_by_spec(config, specs),
    )


def _adam(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.scale_by_adam(
        b1=config.b1, b2=config.b2, eps=config.eps, mu_dtype=jnp.dtype(config.first_moment_dtype)
    )


def _scale_by_spec(config: TrainConfig, specs: Mapping[str, ParamSpec]) -> optax.GradientTransformation:
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
        updates: optax.Updates, state: optax.ScaleByScheduleState, params: optax.Params | None = None
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
        return tree.unflatten(scaled), optax.ScaleByScheduleState(count=state.count + 1)

    return optax.GradientTransformation(init, update)
