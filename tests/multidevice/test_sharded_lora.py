"""Adapters, and a base in int8, on a mesh of eight devices compute what one device computes."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from owl2_jax.training.device_batch import device_batch
from tests.training import runs

GROUPS = [
    {"name": "abstractor", "pattern": "abstractor/.*", "lr_multiplier": 0.2},
    {"name": "adapters", "pattern": ".*/lora_[ab]"},
    {"name": "base", "pattern": ".*", "trainable": False},
]


def one_step(base: str, mesh: dict[str, int], devices: int):
    """Loss, norm of the gradient, and the state after a step with accumulation and dropout."""
    lora = {"rank": 2, "alpha": 4.0, "dropout": 0.2, "base": base}
    config = runs.run_config(
        f"model.lora={lora}", f"train.groups={GROUPS}", f"mesh={mesh}", "train.schedule.warmup_steps=0",
        "train.accumulate_steps=2", "model.remat=full",
    )  # fmt: skip
    trainer = runs.trainer_of(config, devices)
    state = trainer.create(trainer.init(jax.random.key(0)))
    with runs.pipeline_of(config, trainer) as pipeline:
        batch = device_batch(next(pipeline), trainer.mesh, 2, True)
    state, metrics = trainer.step(state, batch)
    return float(metrics["loss"]), float(metrics["grad_norm"]), state


@pytest.mark.parametrize("base", ["stored", "int8"])
def test_a_step_on_a_mesh_is_that_of_one_device(base):
    loss, norm, alone = one_step(base, {"data": 1}, 1)
    sharded_loss, sharded_norm, sharded = one_step(base, {"fsdp": 2, "tensor": 2}, 4)
    assert sharded_loss == pytest.approx(loss, rel=1e-5)
    assert sharded_norm == pytest.approx(norm, rel=1e-4)
    kernel = sharded.params["decoder"]["layers"]["mlp"]["up"]["kernel"]
    assert kernel.dtype == (np.int8 if base == "int8" else np.float32)
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 16, 24)
    np.testing.assert_array_equal(kernel, alone.params["decoder"]["layers"]["mlp"]["up"]["kernel"])
