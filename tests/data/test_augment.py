from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.augment import Augment, augment, random_box

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))


def test_the_same_seed_gives_the_same_pixels_and_another_does_not():
    first, again, other = (augment(IMAGE, 28, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.shape == (28, 28, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_crops_stay_inside_and_within_scale_and_ratio():
    rng, settings = np.random.default_rng(1), Augment(scale=(0.2, 0.9))
    for _ in range(500):
        left, top, right, bottom = random_box(90, 60, rng, settings)
        assert 0 <= left < right <= 90
        assert 0 <= top < bottom <= 60
        share = (right - left) * (bottom - top) / (90 * 60)
        assert 0.18 < share < 0.92
        assert 0.72 < (right - left) / (bottom - top) < 1.4


@pytest.mark.parametrize("shape", [(1, 1), (1000, 1), (1, 1000), (300, 20)])
def test_a_long_thin_image_gives_its_middle(shape):
    left, top, right, bottom = random_box(*shape, np.random.default_rng(0), Augment(scale=(1.0, 1.0)))
    assert 0 <= left < right <= shape[0]
    assert 0 <= top < bottom <= shape[1]
    assert abs((left + right) - shape[0]) <= 1
    assert abs((top + bottom) - shape[1]) <= 1


def test_flipping_mirrors_left_and_right():
    still, flipped = (augment(IMAGE, 28, np.random.default_rng(5), Augment(flip=flip)) for flip in (0.0, 1.0))
    np.testing.assert_array_equal(flipped, still[:, ::-1])


def test_half_of_the_images_are_flipped():
    whole = Augment(scale=(1.0, 1.0), ratio=(1.5, 1.5))
    still = np.asarray(IMAGE.resize((28, 28), Image.Resampling.BICUBIC))
    rng = np.random.default_rng(6)
    flips = sum((augment(IMAGE, 28, rng, whole) != still).any() for _ in range(300))
    assert 110 < flips < 190


@pytest.mark.parametrize(
    "bad", [{"scale": (0.0, 1.0)}, {"scale": (0.5, 1.5)}, {"ratio": (2, 1)}, {"flip": 1.5}]
)
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(Owl2Error, match=rf"data\.augment\.{next(iter(bad))}"):
        Augment(**bad)


def test_quarter_turns_on_request():
    same_size = Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), turn=True)
    square = IMAGE.crop((0, 0, 60, 60))
    upright = np.asarray(square)
    wanted = {np.rot90(side, k).tobytes() for side in (upright, upright[:, ::-1]) for k in range(4)}
    seen = {augment(square, 60, np.random.default_rng(seed), same_size).tobytes() for seed in range(100)}
    assert seen == wanted
