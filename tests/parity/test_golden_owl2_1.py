"""mPLUG-Owl2.1: every array of the original's forward passes, gradients and optimiser steps.

Also beyond the trained length, where evaluation and training differ.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from owl2_jax.convert.qwen_weight_names import OWL2_1
from owl2_jax.model import image_positions
from owl2_jax.model.owl2 import Owl2
from owl2_jax.training.step import gradients
from tests.parity.golden import (
    ATOL,
    GOLDEN,
    RTOL,
    Case,
    apply,
    assert_close,
    case,
    load,
    padded,
    run_over_pages,
)
from tests.parity.test_golden_training import CONFIG, check_five_steps, device_batch, theirs

MODEL = "F"
SHORT = ("i", "ii", "ii_edge", "iii", "iv", "v")
LONG = ("long", "long_text", "long_batch")
WITH_IMAGES = ("i", "ii", "ii_edge", "iv", "v", "long", "long_batch", "long_train")
EVERY = 13  # the file has every 13th value of each gradient


def inputs_of(name: str) -> Case:
    """A case, padded so that all of its kind share one compilation."""
    return padded(case(MODEL, name), load(MODEL)[0], length=96 if name.startswith("long") else 48)


def prompt_lengths(inputs: Case) -> np.ndarray:
    return np.sum(inputs.segment_ids > 0, axis=1, dtype=np.int32)


def test_vision_encoder_and_abstractor() -> None:
    config, params, golden, _ = load(MODEL)
    pixels = golden["vision/pixel_values"].transpose(0, 2, 3, 1)
    encoded = apply(config, lambda m, x: m.vision(x))({"params": params}, pixels)
    assert_close(encoded, golden["vision/last_hidden_state"])
    features = apply(config, lambda m, x: m.abstractor(x))({"params": params}, encoded)
    assert_close(features, golden["abstractor/last_hidden_state"])


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_expansion(name: str) -> None:
    config, _, golden, _ = load(MODEL)
    inputs = case(MODEL, name)
    np.testing.assert_array_equal(inputs.labels, golden[f"{name}/expanded_labels"])
    np.testing.assert_array_equal(inputs.segment_ids > 0, golden[f"{name}/expanded_attention_mask"])
    length = inputs.tokens.shape[1]
    starts = image_positions.slot_starts(inputs.image_index, inputs.image_starts, length)
    is_image = image_positions.image_mask(starts, length, config.tokens_per_image)
    np.testing.assert_array_equal(is_image.astype(int), golden[f"{name}/expanded_modality"])


@pytest.mark.parametrize("image_kv", ["gather", "product", "select"])
@pytest.mark.parametrize("name", [*SHORT, *LONG])
def test_logits_in_evaluation(name: str, image_kv: str) -> None:
    config, params, golden, _ = load(MODEL)
    expected, inputs = golden[f"{name}/logits"], inputs_of(name)
    logits = apply(config.replace(image_kv=image_kv), Owl2.__call__)(
        {"params": params}, *inputs.inputs, prompt_lengths(inputs)
    )
    logits = logits[: expected.shape[0], : expected.shape[1]]
    assert_close(logits, expected)
    labels = golden.get(f"{name}/expanded_labels", golden[f"{name}/labels"])[:, 1:]
    shares = np.asarray(jax.nn.log_softmax(logits[:, :-1]))
    chosen = np.take_along_axis(shares, np.maximum(labels, 0)[:, :, None], 2)
    assert_close(-chosen[:, :, 0][labels != -100].mean(), golden[f"{name}/loss"], "loss")


@pytest.mark.parametrize("name", [*SHORT, "long_train"])
def test_training_does_the_same_at_every_length(name: str) -> None:
    config, params, golden, _ = load(MODEL)
    expected = golden[f"{name}/logits"]
    logits = apply(config, Owl2.__call__)({"params": params}, *inputs_of(name).inputs)
    assert_close(logits[: expected.shape[0], : expected.shape[1]], expected)


def test_a_batch_beyond_the_trained_length_equals_its_rows_one_by_one() -> None:
    config, params, _, _ = load(MODEL)
    together = inputs_of("long_batch")
    run = apply(config, Owl2.__call__)
    logits = run({"params": params}, *together.inputs, prompt_lengths(together))
    counts = prompt_lengths(together)
    assert len(set(counts.tolist())) == 2
    for row, count in enumerate(counts):
        alone = _row(together, row)
        single = run({"params": params}, *alone.inputs, prompt_lengths(alone))
        assert_close(single[0, :count], logits[row, :count])


def _row(inputs: Case, row: int) -> Case:
    values = {field.name: getattr(inputs, field.name) for field in dataclasses.fields(inputs)}
    return Case(**{name: value if name == "images" else value[[row, row]] for name, value in values.items()})


def test_decoder_states_and_pages_layer_by_layer() -> None:
    config, params, golden, _ = load(MODEL)
    inputs = case(MODEL, "i")
    (hidden, seen), pages, rows, batch = run_over_pages(config, params, inputs, sow=True)
    expected = golden["i/hidden_states"][:, 0]
    assert_close(seen["decoder"]["layers"]["hidden"][0][:-1, :, 0], expected[1:-1], "layers")
    assert_close(hidden, expected[-1], "after the final norm")
    # The original keeps positions before heads.
    keys, values = rows.dense(pages, config.decoder.num_layers)
    assert_close(keys.swapaxes(2, 3), golden["i/past_k"], "keys")
    assert_close(values.swapaxes(2, 3), golden["i/past_v"], "values")
    np.testing.assert_array_equal(batch.prompt_lengths, [inputs.tokens.shape[1]])


@functools.cache
def loss_and_gradients() -> Any:
    config = load(MODEL)[0]
    return jax.jit(lambda params, batch: gradients(params, {}, batch, Owl2(config), CONFIG))


@pytest.mark.parametrize("name", [*SHORT, "long_train"])
def test_loss_and_gradient_norms(name: str) -> None:
    _, params, golden, meta = load(MODEL)
    grads, sums = loss_and_gradients()(params, device_batch(inputs_of(name)))
    assert_close(sums.loss / sums.count, golden[f"{name}/loss"])
    norms = {key: np.linalg.norm(value) for key, value in theirs(grads, OWL2_1).items()}
    expected = dict(zip(meta["param_names"], golden[f"{name}/grad_norms"], strict=True))
    assert sorted(norms) == sorted(expected)
    assert_close([norms[key] for key in expected], list(expected.values()))


@pytest.mark.parametrize("name", ["i", "iv"])
def test_gradients(name: str) -> None:
    _, params, _, _ = load(MODEL)
    grads, _ = loss_and_gradients()(params, device_batch(inputs_of(name)))
    ours = theirs(grads, OWL2_1)
    with np.load(GOLDEN / MODEL / f"grads_every{EVERY}th.npz") as file:
        expected = {key.removeprefix(f"{name}/"): file[key] for key in file if key.startswith(f"{name}/")}
    assert sorted(ours) == sorted(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(ours[key].reshape(-1)[::EVERY], value, atol=ATOL, rtol=RTOL, err_msg=key)


def test_five_adamw_steps() -> None:
    check_five_steps(MODEL)
