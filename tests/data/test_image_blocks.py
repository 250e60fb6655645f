from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from owl2_jax.data.image_blocks import hidden_first_frame, png_colour, without_metadata
from tests.fuzz import image_files, images


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_metadata_is_dropped_and_pixels_stay(kind):
    exif = Image.Exif()
    exif[0x010F] = "maker"
    data = images.encoded(images.noise(), kind, exif=exif)
    kept, bare = without_metadata(data, keep_exif=True), without_metadata(data, keep_exif=False)
    assert b"maker" in data
    assert b"maker" in (kept or data)
    assert bare is not None
    assert b"maker" not in bare
    opened = Image.open(io.BytesIO(bare))
    assert not opened.getexif()
    np.testing.assert_array_equal(opened, Image.open(io.BytesIO(data)))


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG\r\n\x1a\n\0", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"II*\0\xff"]
)
def test_a_file_that_is_cut_off_has_nothing_to_drop(data):
    for keep_exif in (True, False):
        bare = without_metadata(data, keep_exif)
        assert bare is None or len(bare) <= len(data)


def test_the_colour_of_a_png_is_read_from_its_header():
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 16, (2, 2, 1))
    head = (b"IHDR", image_files.png_header(2, 2, 4, image_files.GREY))
    pixels = (b"IDAT", image_files.png_pixels(samples, 4, False))
    data = image_files.png([head, (b"tRNS", b"\0\7"), pixels, (b"IEND", b"")])
    assert png_colour(data) == (4, 0, b"\0\7")
    assert png_colour(image_files.png([head, pixels])) == (4, 0, None)
    with pytest.raises(ValueError, match="no header"):
        png_colour(image_files.png([pixels]))


def test_only_a_default_image_outside_of_the_animation_is_hidden():
    rng, hidden = np.random.default_rng(0), 0
    for _ in range(60):
        made = image_files.any_animated_png(rng)
        frame = hidden_first_frame(made.data)
        assert (frame is not None) == ("hidden True" in made.what)
        hidden += frame is not None
        images.check_built(made)
    assert 10 < hidden < 50
    assert hidden_first_frame(images.encoded(images.noise(), "PNG")) is None
    assert hidden_first_frame(b"GIF89a") is None
