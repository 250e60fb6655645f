"""What is fixed during a run, and what a process of many runs shares between them."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from owl2_jax.core import kept
from owl2_jax.training import trainer as trainer_module
from owl2_jax.training.config import TrainConfig
from tests.training import runs


@pytest.fixture
def keeping():
    kept.keep()
    yield
    kept.forget()


def test_runs_of_other_seeds_starts_and_profiles_share_the_compiled_step_and_keep_their_own_config(keeping):
    one = runs.trainer_of(runs.run_config())
    changes = ("train.seed=1", "train.start_from=elsewhere", "train.profile_steps=(2, 3)")
    other = runs.trainer_of(runs.run_config(*changes))
    assert other.step is one.step
    assert (one.config.seed, one.config.start_from, one.config.profile_steps) == (0, None, None)
    assert (other.config.seed, other.config.start_from, other.config.profile_steps) == (
        1,
        "elsewhere",
        (2, 3),
    )


@pytest.mark.parametrize(
    "changed", ["train.total_steps=5", "train.schedule.peak_lr=2e-3", "model.abstractor.num_queries=2"]
)
def test_another_recipe_or_model_has_its_own_step(keeping, changed):
    assert runs.trainer_of(runs.run_config(changed)).step is not runs.trainer_of(runs.run_config()).step


def test_adapters_with_dropout_do_not_share_a_step_as_the_seed_is_in_it(keeping):
    lora = "model.lora={'rank': 2, 'dropout': 0.5}"
    one, other = (runs.trainer_of(runs.run_config(lora, f"train.seed={seed}")) for seed in (0, 1))
    assert one.step is not other.step


def test_without_keeping_every_trainer_is_its_own():
    assert runs.trainer_of(runs.run_config()).step is not runs.trainer_of(runs.run_config()).step


def test_a_run_after_another_one_in_a_process_comes_to_the_same_bits_as_alone(
    keeping, config, trainer, straight, tmp_path
):
    """`trainer` and `straight` were made without keeping, by the run of seed 0 alone."""
    shared = runs.trainer_of(runs.run_config("train.seed=1", "data.seed=1"))
    cached = "data.cache_samples=True"
    runs.run(runs.run_config("train.seed=1", "data.seed=1", cached), tmp_path / "before", trainer=shared)
    second = runs.trainer_of(config)
    assert second.step is shared.step
    outcome, _ = runs.run(runs.run_config(cached), tmp_path / "after", trainer=second)
    runs.assert_equal_trees(jax.device_get(outcome.state), straight[1].state)


@pytest.mark.parametrize(
    ("kind", "chips", "spread", "memory"),
    [
        ("TPU v5 lite", 256, True, {"24576"}),
        ("TPU v6 lite", 256, True, set()),
        ("TPU v5 lite", 1, False, {"24576"}),
        ("TPU v5", 64, True, {"24576"}),
        ("TPU v9", 64, False, set()),
    ],
)
def test_options_of_the_compiler_are_those_of_the_chip_unless_the_config_says_otherwise(
    kind, chips, spread, memory
):
    devices = np.array([SimpleNamespace(platform="tpu", device_kind=kind)])
    mesh = SimpleNamespace(devices=devices, size=chips)
    alone = "xla_jf_crs_combiner_threshold_count"
    ours = {
        "xla_enable_async_all_reduce",
        "xla_tpu_enable_async_collective_fusion_fuse_all_reduce",
        "xla_tpu_prefer_async_allgather_to_allreduce",
        alone,
    }
    options = trainer_module._compile_well(mesh, TrainConfig(total_steps=1))
    of_fusions = options.pop("xla_tpu_scoped_vmem_limit_kib", None)
    assert {of_fusions} - {None} == memory
    assert set(options) == (ours if spread else set())
    chosen = TrainConfig(total_steps=1, compiler_options={alone: "8"})
    assert trainer_module._compile_well(mesh, chosen)[alone] == "8"
