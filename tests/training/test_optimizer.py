"""The optimiser's clipping, at the smallest size there is."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from owl2_jax.core.fields import from_dict
from owl2_jax.training.config import TrainConfig
from owl2_jax.training.optimizer import make_optimizer
from owl2_jax.training.param_groups import assign_groups


@pytest.mark.parametrize(("clip", "length"), [(1.0, 1.0), (100.0, 5.0), (None, 5.0)])
def test_a_gradient_is_clipped_to_the_norm_and_by_none_not_at_all(clip, length):
    values = {
        "total_steps": 1,
        "groups": [{"name": "all", "pattern": ".*"}],
        "optimizer": {"clip_norm": clip},
    }
    config = from_dict(TrainConfig, values, "train")
    params = {"w": jnp.zeros(2)}
    optimizer = make_optimizer(config, assign_groups(params, config))
    _, state = optimizer.update({"w": jnp.array([3.0, 4.0])}, optimizer.init(params), params)
    moment = state[1].mu["w"] / (1 - config.optimizer.b1)
    np.testing.assert_allclose(np.linalg.norm(moment), length, rtol=1e-6)
