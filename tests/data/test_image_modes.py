from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from owl2_jax.data import image_modes


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("mode", sorted(image_modes.MODES))
def test_the_way_for_long_images_gives_the_same_pixels(mode, monkeypatch):
    rng = np.random.default_rng(1)
    shapes = [(1, 200), (200, 1), (7, 300), (300, 7), (64, 64), *rng.integers(1, 250, (40, 2)).tolist()]
    for width, height in shapes:
        size, image = int(rng.integers(1, 80)), noise(width, height)
        expected = np.asarray(image_modes.MODES[mode](image, size))
        with monkeypatch.context() as patch:
            patch.setattr(image_modes, "LARGE", 1)
            np.testing.assert_array_equal(image_modes.MODES[mode](image, size), expected)


@pytest.mark.parametrize("mode", sorted(image_modes.MODES))
@pytest.mark.parametrize("shape", [(1080, 9600), (7200, 400)])
def test_no_square_of_a_long_image_is_built(mode, shape, monkeypatch):
    largest = 0
    resize, new = Image.Image.resize, Image.new

    def seen(image: Image.Image) -> Image.Image:
        nonlocal largest
        largest = max(largest, image.width * image.height)
        return image

    monkeypatch.setattr(Image.Image, "resize", lambda *args, **options: seen(resize(*args, **options)))
    monkeypatch.setattr(Image, "new", lambda *args, **options: seen(new(*args, **options)))
    image = resize(noise(90, 90), shape)
    assert image_modes.MODES[mode](image, 56).size == (56, 56)
    assert 56 * 56 <= largest <= image_modes.LARGE
