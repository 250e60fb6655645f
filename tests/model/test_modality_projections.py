"""What a token is decides which keys and values it gets, however these are computed."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax.core import meta

from owl2_jax.model import modality_projections
from owl2_jax.model.image_positions import image_mask
from owl2_jax.model.modality_projections import ModalityProjections
from owl2_jax.testing import tiny

CONFIG = tiny.tiny_config()
LENGTH = 4 * CONFIG.tokens_per_image
X = np.random.default_rng(0).standard_normal((2, LENGTH, CONFIG.decoder.width)).astype(np.float32)
STARTS = np.array([[2, LENGTH], [1, 3 * CONFIG.tokens_per_image]], np.int32)  # one image, and two
IS_IMAGE = image_mask(STARTS, LENGTH, CONFIG.tokens_per_image)


@pytest.fixture(scope="module")
def params():
    return meta.unbox(ModalityProjections(CONFIG).init(jax.random.key(0), X, IS_IMAGE, STARTS))


@pytest.mark.parametrize(
    ("image_kv", "starts"), [("gather", STARTS), ("product", STARTS), ("select", STARTS), ("gather", None)]
)
def test_keys_and_values_of_images_are_their_own_and_queries_are_shared(params, image_kv, starts):
    found = ModalityProjections(CONFIG.replace(image_kv=image_kv)).apply(params, X, IS_IMAGE, starts)
    kernels = {name: part["kernel"] for name, part in params["params"].items()}
    assert kernels.keys() == {"q", "k_text", "k_image", "v_text", "v_image"}
    of = lambda name: np.einsum("btd,dnh->btnh", X, kernels[name])
    mask = np.asarray(IS_IMAGE)[:, :, None, None]
    expected = [of("q"), *(np.where(mask, of(f"{part}_image"), of(f"{part}_text")) for part in "kv")]
    for part, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, wanted, atol=1e-5)


def test_without_images_only_text_is_projected(params):
    text = {"params": {name: params["params"][name] for name in ("q", "k_text", "v_text")}}
    found = ModalityProjections(CONFIG).apply(text, X, None, None)
    np.testing.assert_array_equal(found[1], ModalityProjections(CONFIG).apply(params, X, None, None)[1])


@pytest.mark.parametrize("images", [0, 1, 7, 8, 30])
def test_tokens_of_images_among_many_are_projected_some_at_a_time(params, monkeypatch, images):
    monkeypatch.setattr(modality_projections, "_IMAGES_AT_A_TIME", 8)
    x = np.random.default_rng(1).standard_normal((30, 1, CONFIG.decoder.width)).astype(np.float32)
    is_image = np.zeros((30, 1), bool)
    is_image[np.random.default_rng(images).permutation(30)[:images]] = True
    found = jax.jit(ModalityProjections(CONFIG).apply, static_argnums=3)(params, x, is_image, None)
    # One row of tokens is not a flat batch: it selects, as above.
    select = ModalityProjections(CONFIG.replace(image_kv="select"))
    row = select.apply(params, x.swapaxes(0, 1), is_image.T, STARTS[:1])
    for part, wanted in zip(found, row, strict=True):
        np.testing.assert_allclose(part[:, 0], wanted[0], atol=1e-5)
