"""Adapters, and a base in int8, on a mesh of eight devices compute what one device computes."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from owl2_jax.testing import tiny
from owl2_jax.training.device_batch import device_batch
from tests.training import runs

GROUPS = [
    {"name": "abstractor", "pattern": "abstractor/.*", "lr_multiplier": 0.2},
    {"name": "adapters", "pattern": ".*/lora_[ab]"},
    {"name": "base", "pattern": ".*", "trainable": False},
]


# mPLUG-Owl2.1 with one adapter of its queries, keys and values.
OWL2_1 = [f"model.{name}={value!r}" for name, value in tiny.OWL2_1.items()]
FUSED = {"targets": ("qkv_text", "qkv_image", "out", "gate", "up", "down")}


def one_step(base: str, mesh: dict[str, int], devices: int, model: str = "owl2"):
    """Loss, norm of the gradient, and the state after a step with accumulation and dropout."""
    lora = {"rank": 2, "alpha": 4.0, "dropout": 0.2, "base": base, **(FUSED if model == "owl2_1" else {})}
    config = runs.run_config(
        *(OWL2_1 if model == "owl2_1" else []),
        f"model.lora={lora}", f"train.groups={GROUPS}", f"mesh={mesh}", "train.schedule.warmup_steps=0",
        "train.accumulate_steps=2", "model.remat=full", "data.shards=4",
    )  # fmt: skip
    trainer = runs.trainer_of(config, devices)
    state = trainer.create(trainer.init(jax.random.key(0)))
    with runs.pipeline_of(config, trainer) as pipeline:
        batch = device_batch(next(pipeline), trainer.mesh, 2, True, trainer.images_beside)
    assert trainer.images_beside
    state, metrics = trainer.step(state, batch)
    return float(metrics["loss"]), float(metrics["grad_norm"]), state


@pytest.mark.parametrize(("base", "model"), [("stored", "owl2"), ("int8", "owl2"), ("int8", "owl2_1")])
def test_a_step_on_a_mesh_is_that_of_one_device(base, model):
    loss, norm, alone = one_step(base, {"data": 1}, 1, model)
    sharded_loss, sharded_norm, sharded = one_step(base, {"fsdp": 2, "tensor": 2}, 4, model)
    assert sharded_loss == pytest.approx(loss, rel=1e-5)
    assert sharded_norm == pytest.approx(norm, rel=1e-4)
    kernel = sharded.params["decoder"]["layers"]["mlp"]["up"]["kernel"]
    assert kernel.dtype == (np.int8 if base == "int8" else np.float32)
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 16, 24)
    np.testing.assert_array_equal(kernel, alone.params["decoder"]["layers"]["mlp"]["up"]["kernel"])
