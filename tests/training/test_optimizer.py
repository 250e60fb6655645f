"""The optimiser beside optax's own parts, at the smallest size there is."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from owl2_jax.core.fields import from_dict
from owl2_jax.training.config import TrainConfig
from owl2_jax.training.optimizer import make_optimizer
from owl2_jax.training.param_groups import assign_groups


def run_config(**optimizer):
    values = {
        "total_steps": 4,
        "groups": [{"name": "all", "pattern": ".*"}],
        "optimizer": optimizer,
        "schedule": {"peak_lr": 0.1, "end_lr": 0.1, "warmup_steps": 0},
    }
    return from_dict(TrainConfig, values, "train")


@pytest.mark.parametrize("moment", ["float32", "bfloat16"])
@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_steps_are_those_of_optax(moment, param_dtype):
    config = run_config(clip_norm=1.0, first_moment_dtype=moment, weight_decay=0.0)
    settings = config.optimizer
    params = {"w": jnp.linspace(-1.0, 1.0, 6, dtype=param_dtype), "u": jnp.ones(3, param_dtype)}
    ours = make_optimizer(config, assign_groups(params, config))
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(settings.b1, settings.b2, settings.eps, mu_dtype=moment),
        optax.scale(-0.1),
    )
    states = [optimizer.init(params) for optimizer in (ours, theirs)]
    for step in range(4):
        grads = jax.tree.map(lambda p, step=step: jnp.sin(3.0 * p + step).astype(jnp.float32), params)
        found, states[0] = ours.update(grads, states[0], params)
        wanted, states[1] = theirs.update(grads, states[1], params)
        wanted = optax.tree.cast_like(wanted, params)
        chex.assert_trees_all_close(found, wanted, rtol=1e-5 if param_dtype == "float32" else 8e-3)
        chex.assert_trees_all_equal_dtypes(found, params)
        chex.assert_trees_all_equal_dtypes(states[0][1], states[1][1])


def test_a_step_that_is_not_finite_leaves_the_state():
    config = run_config()
    params = {"w": jnp.ones(3)}
    optimizer = make_optimizer(config, assign_groups(params, config))
    _, state = optimizer.update({"w": jnp.ones(3)}, optimizer.init(params), params)
    bad = {"w": jnp.array([1.0, jnp.nan, 1.0])}
    chex.assert_trees_all_equal(optimizer.update(bad, state, params, finite=jnp.array(False))[1], state)


@pytest.mark.parametrize(("clip", "length"), [(1.0, 1.0), (100.0, 5.0), (None, 5.0)])
def test_a_gradient_is_clipped_to_the_norm_and_by_none_not_at_all(clip, length):
    config = run_config(clip_norm=clip)
    params = {"w": jnp.zeros(2)}
    optimizer = make_optimizer(config, assign_groups(params, config))
    _, state = optimizer.update({"w": jnp.array([3.0, 4.0])}, optimizer.init(params), params)
    moment = state[1].mu["w"] / (1 - config.optimizer.b1)
    np.testing.assert_allclose(np.linalg.norm(moment), length, rtol=1e-6)
