from __future__ import annotations

import io
import logging
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from owl2_jax.data import tiff_errors
from owl2_jax.data.images import ImageError, decode
from tests.fuzz import image_files


def damaged(compression: str) -> bytes:
    """A TIFF of noise with a hundred wrong bytes among its pixels."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "TIFF", compression=compression)
    data = bytearray(buffer.getvalue())
    data[300:400] = bytes(255 - byte for byte in data[300:400])
    return bytes(data)


@pytest.mark.parametrize(
    ("compression", "said"),
    [
        ("tiff_lzw", "Using code not yet in table"),
        ("tiff_deflate", "Decoding error at scanline 0, incorrect data check"),
        ("jpeg", "Unsupported marker type 0x0d"),  # of which Pillow would give what was decoded
    ],
)
def test_what_libtiff_says_is_our_message_and_not_on_the_error_stream(compression, said, capfd):
    with pytest.raises(ImageError) as caught:
        decode(damaged(compression), "a.tif")
    assert str(caught.value) == f"the image a.tif is damaged: {said}; replace the file"
    assert caught.value.reason == "corrupt"
    assert capfd.readouterr().err == ""


def test_errors_of_a_block_are_its_own():
    image = Image.open(io.BytesIO(damaged("tiff_lzw")))
    with (
        tiff_errors.collected() as outer,
        tiff_errors.collected() as inner,
        pytest.raises(OSError, match="decoder"),
    ):
        image.load()
    assert (outer, len(inner)) == ([], 1)


def test_without_the_library_images_are_read_as_before(tmp_path):
    (tmp_path / "a.tif").write_bytes(damaged("tiff_lzw"))
    code = (
        "import sys; from owl2_jax.data import images, tiff_errors; tiff_errors._library = lambda: None\n"
        "try: images.decode(sys.argv[1])\nexcept images.ImageError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.tif"], capture_output=True, text=True)
    assert done.stdout == f"the image {tmp_path}/a.tif is damaged: decoder error -2; replace the file\n"


def test_what_pillow_logs_of_a_header_is_not_printed_either(capfd):
    """Where a library has given the root logger a handler, as absl does."""
    tags = image_files.tiff_tags(9, 9, [8, 8, 8], 2)
    data = image_files.tiff(bytes(9 * 9 * 3), {**tags, 277: ("H", [10825])})
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    try:
        with pytest.raises(ImageError):
            decode(data, "a.tif")
    finally:
        logging.getLogger().removeHandler(handler)
    assert capfd.readouterr().err == ""
