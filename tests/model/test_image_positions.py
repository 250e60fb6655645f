"""Images in rows: where they stand, reading and writing them, and the ways to project keys and values."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl2_jax.model import image_positions
from owl2_jax.model.owl2 import Owl2, abstract_params, init_params
from owl2_jax.testing import tiny

SPAN, LENGTH = 3, 10
# Row 0 has two images, row 1 one after an empty slot, row 2 none.
INDEX = jnp.asarray([[0, 1], [-1, 2], [-1, -1]])
STARTS = jnp.asarray([[0, 5], [4, 7], [0, 0]])
MASK = [
    [1, 1, 1, 0, 0, 1, 1, 1, 0, 0],
    [0, 0, 0, 0, 0, 0, 0, 1, 1, 1],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
]


def test_modality_indicator_against_a_hand_written_mask() -> None:
    starts = image_positions.slot_starts(INDEX, STARTS, LENGTH)
    np.testing.assert_array_equal(image_positions.image_mask(starts, LENGTH, SPAN).astype(int), MASK)


def test_putting_images_writes_their_positions_and_nothing_else() -> None:
    starts = image_positions.slot_starts(INDEX, STARTS, LENGTH)
    values = jnp.arange(1, 1 + 3 * 2 * SPAN, dtype=jnp.float32).reshape(3, 2, SPAN, 1)
    written = image_positions.put_images(jnp.zeros((3, LENGTH, 1)), starts, values)[..., 0]
    np.testing.assert_array_equal(written > 0, np.asarray(MASK) > 0)
    np.testing.assert_array_equal(written[0, 5:8], values[0, 1, :, 0])
    np.testing.assert_array_equal(written[1, 7:10], values[1, 1, :, 0])


def test_taking_images_reads_what_was_put() -> None:
    starts = image_positions.slot_starts(INDEX, STARTS, LENGTH)
    values = jax.random.normal(jax.random.key(0), (3, 2, SPAN, 4))
    taken = image_positions.take_images(
        image_positions.put_images(jnp.zeros((3, LENGTH, 4)), starts, values), starts, SPAN
    )
    filled = np.asarray(INDEX) >= 0
    np.testing.assert_array_equal(np.asarray(taken)[filled], np.asarray(values)[filled])


def test_gradient_of_an_empty_slot_is_zero() -> None:
    starts = image_positions.slot_starts(INDEX, STARTS, LENGTH)

    def total(values):
        return image_positions.put_images(jnp.zeros((3, LENGTH, 1)), starts, values).sum()

    gradient = jax.grad(total)(jnp.ones((3, 2, SPAN, 1)))[..., 0, 0]
    np.testing.assert_array_equal(gradient, np.asarray(INDEX) >= 0)


@pytest.fixture(scope="module")
def inputs():
    config = tiny.tiny_config()
    size, length = config.vision.image_size, 3 * config.tokens_per_image + 5
    key = jax.random.key(1)
    tokens = jax.random.randint(key, (2, length), 3, config.decoder.vocab_size)
    positions = jnp.tile(jnp.arange(length), (2, 1))
    images = jax.random.normal(key, (3, size, size, 3))
    index = jnp.asarray([[0, 1], [2, -1]])
    starts = jnp.asarray([[1, config.tokens_per_image + 3], [4, 0]])
    return config, (tokens, positions, jnp.ones_like(tokens), images, index, starts)


def test_gather_product_and_select_agree_in_value_and_gradient(inputs) -> None:
    config, arguments = inputs
    params = init_params(config, jax.random.key(0))

    def loss(params, image_kv):
        model = Owl2(config.replace(image_kv=image_kv))
        return jnp.square(model.apply({"params": params}, *arguments)).mean()

    results = {
        kind: jax.jit(jax.value_and_grad(lambda p, k=kind: loss(p, k)))(params)
        for kind in ("select", "gather", "product")
    }
    selected, *others = map(jax.tree.leaves, results.values())
    for found in others:
        for got, wanted in zip(found, selected, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-6, rtol=1e-4)


def test_taken_and_put_by_products_every_number_is_the_same() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 30, 2, 4)), jnp.bfloat16)
    starts = jnp.asarray([[2, 30], [0, 9], [30, 30]])
    span = 5
    places = image_positions.places(starts, 30, span, x.dtype)
    taken = image_positions.take_by_product(x.reshape(3, 30, 8), places).reshape(3, 2, span, 2, 4)
    wanted = image_positions.take_images(x, starts, span)
    is_there = (starts < 30)[:, :, None, None, None]
    np.testing.assert_array_equal(taken, jnp.where(is_there, wanted, 0))
    values = -taken.reshape(3, 2 * span, 2, 4)
    mask = image_positions.image_mask(starts, 30, span)
    put = image_positions.put_by_product(x.reshape(3, 30, 8), mask, places, values.reshape(3, 2 * span, 8))
    wanted = image_positions.put_images(x, starts, values.reshape(taken.shape))
    np.testing.assert_array_equal(put, wanted.reshape(put.shape))


@pytest.mark.parametrize(
    ("adaptive", "norms", "kv"),
    [("full", True, True), ("norms", True, False), ("kv", False, True), ("none", False, False)],
)
def test_the_module_is_a_switch(inputs, adaptive: str, norms: bool, kv: bool) -> None:
    config, arguments = inputs
    config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, adaptive=adaptive))
    layers = abstract_params(config)["decoder"]["layers"]
    assert ("attention_norm_image" in layers, "k_image" in layers["attention"]) == (norms, kv)
    shapes = jax.eval_shape(
        lambda: Owl2(config).apply({"params": init_params(config, jax.random.key(0))}, *arguments)
    )
    assert shapes.shape == (*arguments[0].shape, config.decoder.vocab_size)


def test_an_image_changes_only_what_comes_after_it(inputs) -> None:
    config, arguments = inputs
    run = jax.jit(
        lambda images: Owl2(config).apply(
            {"params": tiny.tiny_params(config)}, *arguments[:3], images, *arguments[4:]
        )
    )
    before, after = run(arguments[3]), run(arguments[3].at[1].add(1.0))
    second = int(arguments[5][0, 1])
    np.testing.assert_allclose(before[0, :second], after[0, :second], atol=1e-6)
    np.testing.assert_allclose(before[1], after[1], atol=1e-6)
    assert jnp.abs(before[0, second:] - after[0, second:]).max() > 1e-3
