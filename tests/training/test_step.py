from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl2_jax.model.owl2 import Owl2, init_params
from owl2_jax.testing import tiny
from owl2_jax.training import param_groups
from owl2_jax.training.config import ScheduleConfig, TrainConfig
from owl2_jax.training.device_batch import split
from owl2_jax.training.optimizer import make_optimizer
from owl2_jax.training.state import create_state
from owl2_jax.training.step import DeviceBatch, batch_loss, gradients, sample_classes, train_step

ROWS, PARTS = 32, 8
MODEL = tiny.tiny_config()
CONFIG = TrainConfig(total_steps=5, schedule=ScheduleConfig(peak_lr=1e-2, warmup_steps=0))


@pytest.fixture(scope="module")
def params():
    return init_params(MODEL, jax.random.key(0))


@pytest.fixture(scope="module")
def arrays():
    """32 rows in 8 parts with 4 images each; the parts have very different numbers of labels."""
    parts = [tiny.tiny_inputs(MODEL, rows=4, seed=seed) for seed in range(PARTS)]
    for number, part in enumerate(parts):
        part["labels"][:, : 2 * number] = -100
        index = part["image_index"]
        part["image_index"] = np.where(index < 0, -1, index + number * len(parts[0]["images"])).astype(
            np.int32
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_accumulating_8_times_4_rows_equals_32_rows_at_once(params, arrays):
    """In float64, where the order of the sums is no excuse: in float32 it alone makes up to 1e-6."""

    def run(config: TrainConfig, batch: DeviceBatch):
        return jax.jit(lambda p, b: gradients(p, {}, b, model, config))(params, batch)

    double = dataclasses.replace(MODEL)
    for name in ("dtype", "param_dtype"):
        object.__setattr__(double, name, "float64")  # which no run may ask for
    model = Owl2(double)
    arrays = {**arrays, "images": (arrays["images"] / 255).astype(np.float64)}
    accumulating = dataclasses.replace(CONFIG, accumulate_steps=PARTS)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        whole, sums = run(CONFIG, DeviceBatch(**arrays))
        parts, part_sums = run(accumulating, DeviceBatch(**split(arrays, PARTS)))
        assert int(part_sums.count) == int(sums.count)
        assert part_sums.loss.dtype == np.float64
        np.testing.assert_allclose(part_sums.loss, sums.loss, rtol=1e-12)
        norm = max(float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(whole))
        for got, want in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
            assert float(jnp.linalg.norm(got - want)) <= 1e-12 * norm


def test_rows_beyond_the_trained_length_of_owl2_1_train_as_if_it_had_none(arrays):
    """Packed rows: loss and gradients are those of a decoder without the two rules, bit by bit."""
    rules = tiny.tiny_config(**{**tiny.OWL2_1, "decoder.trained_length": 2})
    plain = rules.replace(**{"decoder.dynamic_ntk": False, "decoder.logn": False})
    params = init_params(plain, jax.random.key(0))
    lengths = (10, 8, 6)
    segments = np.repeat(np.arange(1, 4, dtype=np.int32), lengths)
    positions = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
    packed = {"segment_ids": np.tile(segments, (ROWS, 1)), "positions": np.tile(positions, (ROWS, 1))}
    batch = DeviceBatch(**{**arrays, **packed})

    def trained(model):
        return jax.tree.leaves(jax.jit(lambda p: gradients(p, {}, batch, Owl2(model), CONFIG))(params))

    for with_rules, without in zip(trained(rules), trained(plain), strict=True):
        np.testing.assert_array_equal(with_rules, without)


def test_a_step_that_is_not_finite_changes_no_parameter_and_no_moment(params, arrays):
    specs = param_groups.assign_groups(params, CONFIG)
    optimizer = make_optimizer(CONFIG, specs)
    step = jax.jit(
        functools.partial(train_step, model=Owl2(MODEL), optimizer=optimizer, specs=specs, config=CONFIG)
    )
    good = DeviceBatch(**{**arrays, "images": arrays["images"].astype(np.float32) / 255})
    bad = good.replace(images=good.images * np.nan)
    before, _ = step(create_state(params, specs, optimizer), good)
    after, metrics = step(before, bad)
    for name in ("params", "opt_state"):
        got, want = jax.tree.leaves(getattr(after, name)), jax.tree.leaves(getattr(before, name))
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))
    assert (int(after.step), int(after.bad_steps), int(after.skipped)) == (2, 1, 1)
    assert not np.isfinite(metrics["loss"])
    again, _ = step(after, good)
    assert (int(again.step), int(again.bad_steps), int(again.skipped)) == (3, 0, 1)


def test_classes_tell_sets_and_images_apart_and_add_up(params, arrays):
    datasets = np.tile(np.arange(ROWS, dtype=np.int32)[:, None] % 2, (1, arrays["tokens"].shape[1]))
    batch = DeviceBatch(**arrays, dataset_ids=np.where(arrays["segment_ids"] > 0, datasets, -1))
    classes = np.asarray(sample_classes(batch))
    images = (arrays["image_index"] >= 0).any(axis=1)
    for row in range(ROWS):
        assert set(classes[row]) <= {2 * (row % 2) + images[row], -2}
    for config, most in ((CONFIG, 0), (dataclasses.replace(CONFIG, loss_chunk=7), 24)):
        sums = batch_loss(params, batch, Owl2(MODEL), config, num_datasets=2, max_targets=most)
        np.testing.assert_allclose(sums.classes.sum(axis=0), [sums.loss, sums.correct, sums.count], rtol=1e-5)
