from __future__ import annotations

import jax
import numpy as np
import pytest

from owl2_jax.model import initializers
from owl2_jax.model.owl2 import init_params
from owl2_jax.model.presets import preset
from owl2_jax.model.rotary import apply_rope, rope_angles

WIDTH, HEADS = 128, 4
KEY = jax.random.key(0)


def test_keys_start_as_queries_and_values_as_the_token():
    kernel = np.asarray(initializers.alike_qkv(KEY, (WIDTH, HEADS, 3, WIDTH // HEADS), np.float32))
    np.testing.assert_array_equal(kernel[:, :, 0], kernel[:, :, 1])
    np.testing.assert_array_equal(kernel[:, :, 2].reshape(WIDTH, WIDTH), np.eye(WIDTH))
    assert kernel[:, :, 0].std() == pytest.approx(WIDTH**-0.5, rel=0.05)


def test_what_attention_passes_on_starts_against_the_token():
    kernel = np.asarray(initializers.mixing_out(KEY, (HEADS, WIDTH // HEADS, WIDTH), np.float32))
    kernel = kernel.reshape(WIDTH, WIDTH)
    assert np.diag(kernel).mean() == pytest.approx(-initializers.MIXING, abs=0.02)
    assert (kernel + initializers.MIXING * np.eye(WIDTH)).std() == pytest.approx(
        initializers.MIXING * WIDTH**-0.5, rel=0.05
    )


@pytest.mark.parametrize("width", [128, 30])
def test_near_patches_start_alike(width):
    grid = 8
    table = np.asarray(initializers.sine_positions(KEY, (grid * grid + 1, width), np.float32))
    assert table.shape == (grid * grid + 1, width)
    assert not table[0].any()
    used = table[1:, : width // 4 * 4]
    np.testing.assert_allclose(np.square(used).mean(1), 1, rtol=1e-5)
    alike = (used @ used.T).reshape(grid, grid, grid, grid)
    # From the corner: itself, its neighbour, the patch after that, along the row and down the column.
    for line in (alike[0, 0, 0], alike[0, 0, :, 0]):
        assert line[0] > line[1] > line[2]


def test_every_layer_of_the_encoder_starts_so_with_its_own_noise():
    vision = init_params(preset("owl2_tiny"), KEY)["vision"]
    qkv = np.asarray(vision["layers"]["attention"]["qkv"]["kernel"])
    np.testing.assert_array_equal(qkv[:, :, :, 0], qkv[:, :, :, 1])
    assert (qkv[0] != qkv[1]).any()
    assert vision["position_embedding"].shape == (65, 128)


def test_a_decoder_with_biases_starts_with_near_tokens():
    queries, keys = (initializers.near_tokens(2)(KEY, (heads, 32), np.float32) for heads in (4, 2))
    np.testing.assert_array_equal(queries, np.repeat(keys, 2, axis=0))
    sin, cos = rope_angles(np.arange(64)[None], 32, theta=100.0)
    turned = apply_rope(np.broadcast_to(queries, (1, 64, 4, 32)), sin, cos)
    scores = np.einsum("nh,tnh->nt", turned[0, -1], turned[0]) / 32**0.5
    assert (scores.argmax(axis=1) == 63).all()
    assert (scores[:, 63] - scores[:, :60].mean(axis=1) > 0.5).all()


def test_every_projection_of_queries_and_keys_starts_so():
    biases = {
        name: np.asarray(module["bias"])
        for name, module in init_params(preset("owl2_1_tiny"), KEY)["decoder"]["layers"]["attention"].items()
        if "bias" in module
    }
    assert set(biases) == {"q", "k_text", "k_image", "q_image", "v_text", "v_image"}
    for name in ("k_text", "k_image", "q_image"):
        np.testing.assert_array_equal(biases[name], biases["q"])
    assert not biases["v_text"].any()
    assert not biases["v_image"].any()
