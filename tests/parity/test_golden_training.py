"""Losses, gradients and five optimiser steps of the original."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl2_jax.convert.weight_names import OWL2, Rule, pairs
from owl2_jax.core import tree
from owl2_jax.model.owl2 import Owl2
from owl2_jax.training import param_groups
from owl2_jax.training.config import OptimizerConfig, ScheduleConfig, TrainConfig
from owl2_jax.training.optimizer import make_optimizer
from owl2_jax.training.state import TrainState, create_state
from owl2_jax.training.step import DeviceBatch, gradients, train_step
from tests.parity.golden import (
    ATOL,
    FORWARD_CASES,
    GOLDEN,
    MODELS,
    RTOL,
    TRAIN_ATOL,
    TRAIN_LOSS_ATOL,
    Case,
    assert_close,
    case,
    load,
    padded,
)

# AdamW of the golden run. Its learning rate is constant.
CONFIG = TrainConfig(
    total_steps=5,
    schedule=ScheduleConfig(peak_lr=1e-3, end_lr=1e-3, warmup_steps=0),
    optimizer=OptimizerConfig(b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, clip_norm=1e9),
)


def device_batch(inputs: Case) -> DeviceBatch:
    return DeviceBatch(
        **{field.name: jnp.asarray(getattr(inputs, field.name)) for field in dataclasses.fields(inputs)}
    )


def theirs(params: dict[str, Any], rules: Sequence[Rule] = OWL2) -> dict[str, np.ndarray]:
    """Leaves under the names and in the layouts of the original."""
    flat = {name: np.asarray(leaf) for name, leaf in tree.flatten(params).items()}
    shapes = {name: leaf.shape for name, leaf in flat.items()}
    result: dict[str, np.ndarray] = {}
    for pair in pairs(rules, shapes):
        leaf = flat[pair.rule.ours]
        tensor = pair.rule.op.to_theirs(leaf if pair.layer is None else leaf[pair.layer])
        before = [] if pair.rule.part in (None, 0) else [result[pair.theirs]]
        result[pair.theirs] = np.concatenate([*before, tensor])
    return result


@functools.cache
def loss_and_gradients(model: str) -> Any:
    config = load(model)[0]
    return jax.jit(lambda params, batch: gradients(params, {}, batch, Owl2(config), CONFIG))


@pytest.mark.parametrize("name", FORWARD_CASES)
@pytest.mark.parametrize("model", MODELS)
def test_loss_and_gradient_norms(model: str, name: str) -> None:
    config, params, golden, meta = load(model)
    grads, sums = loss_and_gradients(model)(params, device_batch(padded(case(model, name), config)))
    assert_close(sums.loss / sums.count, golden[f"{name}/loss"])
    norms = {key: np.linalg.norm(value) for key, value in theirs(grads).items()}
    expected = dict(zip(meta["param_names"], golden[f"{name}/grad_norms"], strict=True))
    assert sorted(norms) == sorted(expected)
    assert_close([norms[key] for key in expected], list(expected.values()))


@pytest.mark.parametrize("name", ["i", "iv"])
@pytest.mark.parametrize("model", MODELS)
def test_every_gradient(model: str, name: str) -> None:
    config, params, _, _ = load(model)
    grads, _ = loss_and_gradients(model)(params, device_batch(padded(case(model, name), config)))
    ours = theirs(grads)
    with np.load(GOLDEN / model / "grads.npz") as file:
        expected = {key.removeprefix(f"{name}/"): file[key] for key in file if key.startswith(f"{name}/")}
    assert sorted(ours) == sorted(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(ours[key], value, atol=ATOL, rtol=RTOL, err_msg=key)


def check_five_steps(model: str) -> TrainState:
    """Losses, norms of gradients and logits of five steps are those of the original; returns the state."""
    config, params, golden, _ = load(model)
    params = jax.tree.map(jnp.asarray, params)
    specs = param_groups.assign_groups(params, CONFIG)
    optimizer = make_optimizer(CONFIG, specs)
    state = create_state(params, specs, optimizer)
    batch = device_batch(case(model, "iv"))
    step = jax.jit(
        functools.partial(train_step, model=Owl2(config), optimizer=optimizer, specs=specs, config=CONFIG)
    )
    losses, norms = [], []
    for _ in range(5):
        state, metrics = step(state, batch)
        losses.append(metrics["loss"]), norms.append(metrics["grad_norm"])
    losses.append(step(state, batch)[1]["loss"])
    np.testing.assert_allclose(losses, golden["train/losses"], atol=TRAIN_LOSS_ATOL)
    np.testing.assert_allclose(norms, golden["train/grad_global_norms"], atol=TRAIN_ATOL, rtol=RTOL)

    logits = jax.jit(Owl2(config).apply)({"params": state.params}, *case(model, "iv").inputs)
    np.testing.assert_allclose(logits, golden["train/final_logits"], atol=TRAIN_ATOL)
    return state


@pytest.mark.parametrize("model", MODELS)
def test_five_adamw_steps(model: str) -> None:
    state, golden = check_five_steps(model), load(model)[2]
    final = theirs(state.params)
    for key in (key for key in golden if key.startswith("train/final_param/")):
        name = key.removeprefix("train/final_param/")
        np.testing.assert_allclose(
            final[name].reshape(golden[key].shape), golden[key], atol=TRAIN_ATOL, err_msg=name
        )
