from __future__ import annotations

import numpy as np
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.model.owl2 import abstract_params
from owl2_jax.testing import tiny
from owl2_jax.training import param_groups
from owl2_jax.training.config import GroupConfig, OptimizerConfig, ScheduleConfig, TrainConfig

SHAPES = abstract_params(tiny.tiny_config())


def config(*members: GroupConfig, **settings) -> TrainConfig:
    return TrainConfig(total_steps=1, groups=members, **settings)


def test_first_match_wins_and_the_table_adds_up():
    spec = config(
        GroupConfig("bias", ".*/bias", lr_multiplier=2.0),
        GroupConfig("vision", "vision/.*", trainable=False),
        GroupConfig("rest", ".*"),
        schedule=ScheduleConfig(peak_lr=1e-3),
    )
    specs = param_groups.assign_groups(SHAPES, spec)
    assert specs["vision/patch_embed/kernel"].lr_multiplier is None
    assert specs["vision/pre_norm/bias"].group.name == "bias"
    rows = {row["group"]: row for row in param_groups.table(SHAPES, specs, spec)}
    assert sum(row["leaves"] for row in rows.values()) == len(specs)
    assert rows["vision"]["lr"] is None
    assert rows["vision"]["state_bytes"] == 0
    assert rows["bias"]["lr"] == pytest.approx((2e-3, 2e-3))
    assert rows["rest"]["state_bytes"] == 8 * rows["rest"]["parameters"]


def test_layer_wise_decay_counts_from_the_top():
    spec = config(
        GroupConfig("top", "vision/post_norm/.*"),
        GroupConfig("layers", "vision/layers/.*", layer_decay=0.9),
        GroupConfig("below", "vision/.*", layer_decay=0.9, depth=2),
        GroupConfig("rest", ".*"),
    )
    specs = param_groups.assign_groups(SHAPES, spec)
    kernel = specs["vision/layers/mlp/fc1/kernel"].lr_multiplier
    assert kernel.shape == (2, 1, 1)
    np.testing.assert_allclose(kernel.ravel(), [0.81, 0.9], rtol=1e-6)
    assert specs["vision/cls_token"].lr_multiplier == pytest.approx(0.9**3)
    assert specs["vision/post_norm/scale"].lr_multiplier == 1.0


def test_vectors_do_not_decay_unless_asked():
    spec = config(GroupConfig("all", ".*"), optimizer=OptimizerConfig(weight_decay=0.05))
    specs = param_groups.assign_groups(SHAPES, spec)
    decayed = {name for name, leaf in specs.items() if leaf.weight_decay}
    assert "decoder/layers/attention/q/kernel" in decayed
    assert not any(name.endswith(("/bias", "/scale")) for name in decayed)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([GroupConfig("a", ".*"), GroupConfig("a", "vision/.*")], "different names"),
        ([GroupConfig("a", "vision/.*")], "match no rule: abstractor/"),
        ([GroupConfig("a", "abstracter/.*"), GroupConfig("b", ".*")], "near names: abstractor"),
        ([GroupConfig("a", ".*", trainable=False)], "nothing to train"),
    ],
)
def test_groups_that_do_not_fit_are_refused(members, message):
    with pytest.raises(Owl2Error, match=message):
        param_groups.assign_groups(SHAPES, config(*members))


def test_changes_are_held_against_the_table():
    specs = param_groups.assign_groups(
        SHAPES, config(GroupConfig("v", "vision/.*", trainable=False), GroupConfig("r", ".*"))
    )
    param_groups.check_changes({"v": 1, "r": 1}, {"v": 1, "r": 2}, specs, 5)
    with pytest.raises(Owl2Error, match="frozen group 'v' changed"):
        param_groups.check_changes({"v": 1, "r": 1}, {"v": 2, "r": 2}, specs, 5)
    with pytest.raises(Owl2Error, match="group 'r' trains, but nothing in it changed within 5 steps"):
        param_groups.check_changes({"v": 1, "r": 1}, {"v": 1, "r": 1}, specs, 5)
