from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from owl2_jax.data.image_colours import to_rgb
from owl2_jax.data.images import ImageError, decode
from tests.fuzz import image_files
from tests.fuzz.image_files import GREY, RGB
from tests.fuzz.images import check_built, encoded

CASES = Path(__file__).parent / "cases" / "images"


def png(samples: list, depth: int, kind: int, clear: bytes) -> bytes:
    pixels = np.array(samples)[None]
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return image_files.png(
        [
            (b"IHDR", image_files.png_header(pixels.shape[1], 1, depth, kind)),
            (b"tRNS", clear),
            (b"IDAT", image_files.png_pixels(pixels, depth, False)),
            (b"IEND", b""),
        ]
    )


def row(data: bytes) -> list:
    return np.asarray(decode(data))[0].tolist()


def greys(data: bytes) -> list[int]:
    return [pixel[0] for pixel in row(data)]


def test_the_transparent_grey_of_16_bits_is_white():
    pixels = np.asarray(decode(CASES / "i16trns.png"))
    assert pixels[0].tolist() == [[255] * 3, [3] * 3, [117] * 3, [255] * 3]


@pytest.mark.parametrize(
    ("samples", "depth", "clear", "expected"),
    [
        ([0, 1, 1, 0], 1, b"\0\1", [0, 255, 255, 0]),
        ([0, 1, 1, 0], 1, b"\0\0", [255, 255, 255, 255]),
        ([0, 1, 2, 3], 2, b"\0\1", [0, 255, 170, 255]),
        ([0, 7, 8, 15], 4, b"\0\7", [0, 255, 136, 255]),
        ([0, 7, 8, 15], 4, b"\xff\xf7", [0, 255, 136, 255]),  # bits above the depth do not count
        ([0, 7, 119, 15], 8, b"\0\7", [0, 255, 119, 15]),
        ([0x1234, 0x1235, 0, 0x1200], 16, b"\x12\x34", [255, 0x12, 0, 0x12]),
    ],
)
def test_a_transparent_grey_is_compared_at_the_files_own_depth(samples, depth, clear, expected):
    assert greys(png(samples, depth, GREY, clear)) == expected


def test_a_transparent_colour_is_compared_at_the_files_own_depth():
    assert row(png([[1, 2, 3], [1, 2, 4]], 8, RGB, b"\0\1\0\2\0\3")) == [[255] * 3, [1, 2, 4]]
    near = [[0x0101, 0x0202, 0x0303], [0x0101, 0x0202, 0x0304], [0, 0, 0]]
    assert row(png(near, 16, RGB, b"\1\1\2\2\3\3")) == [[255] * 3, [1, 2, 3], [0, 0, 0]]


def test_a_transparent_colour_that_is_cut_off_is_damage():
    with pytest.raises(ImageError, match="damaged") as error:
        decode(png([[1, 2, 3]], 16, RGB, b"\1\1"))
    assert error.value.reason == "corrupt"


def test_every_type_of_png_has_the_pixels_its_samples_stand_for():
    rng, kinds = np.random.default_rng(3), set()
    for _ in range(400):
        made = image_files.any_png(rng)
        check_built(made)
        kinds.add(made.what)
    assert len(kinds) == 4 * (5 + 2 + 4 + 2 + 2)


def test_every_type_of_tiff_has_the_pixels_its_samples_stand_for():
    rng, kinds = np.random.default_rng(4), set()
    for _ in range(300):
        made = image_files.any_tiff(rng)
        check_built(made)
        kinds.add(made.what)
    assert len(kinds) >= 25


@pytest.mark.parametrize("type_", [np.int32, np.uint32])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 200], [0, 1, 200]),
        ([0, 0, 0], [0, 0, 0]),
        ([0, 255, 128], [0, 255, 128]),
        ([0, 300, 65_535], [0, 1, 255]),
        ([0, 4096, 256], [0, 16, 1]),
    ],
)
def test_32_bit_integers_are_read_where_their_range_can_be_told(type_, values, expected):
    tags = {
        **image_files.tiff_tags(3, 1, [32], 1),
        339: ("H", [2 if type_ is np.int32 else 1]),
    }
    assert greys(image_files.tiff(np.array(values, type_).tobytes(), tags)) == expected


@pytest.mark.parametrize(
    ("values", "found"),
    [([0, 1000], "from 0 to 1000"), ([-1, 200], "from -1 to 200"), ([0, 65_536], "from 0 to 65536")],
)
def test_32_bit_integers_of_unknown_range_are_refused(values, found):
    data = encoded(Image.fromarray(np.array([values], np.int32)), "TIFF")
    with pytest.raises(
        ImageError, match=f"x has 32-bit pixels with values {found}, whose white is unknown"
    ) as error:
        decode(data, "x")
    assert error.value.reason == "unsupported"


def test_unsigned_32_bit_integers_do_not_wrap():
    tags = {**image_files.tiff_tags(2, 1, [32], 1), 339: ("H", [1])}
    data = image_files.tiff(np.array([0, 2**32 - 1], np.uint32).tobytes(), tags)
    with pytest.raises(ImageError, match="from 0 to 4294967295"):
        decode(data)


def test_12_bits_are_read_as_12_bits():
    tags = image_files.tiff_tags(2, 1, [12], 1)
    assert greys(image_files.tiff(bytes([0xFF, 0xF8, 0x00]), tags)) == [255, 128]


def test_16_bits_with_white_at_zero_are_turned_round():
    tags = image_files.tiff_tags(3, 1, [16], 0)
    assert greys(image_files.tiff(np.array([0, 0x1234, 0xFFFF], "<u2").tobytes(), tags)) == [255, 0xED, 0]


def test_floating_point_tiffs_are_refused_by_name():
    data = encoded(Image.fromarray(np.array([[0.0, 1.0]], np.float32)), "TIFF")
    with pytest.raises(ImageError, match="f has floating-point pixels") as error:
        decode(data, "f")
    assert error.value.reason == "unsupported"


def test_cielab_becomes_srgb():
    levels = np.random.default_rng(0).integers(40, 216, (30, 30, 3), np.uint8)
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.applyTransform(Image.fromarray(levels), ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    pixels = np.asarray(decode(encoded(image, "TIFF"))).astype(int)
    off = np.abs(pixels - levels)
    assert off.mean() < 1  # what 8 bits of CIELAB lose
    assert off.max() <= 6
    for lightness, grey in ((0, 0), (255, 255)):
        data = image_files.tiff(bytes([lightness, 0, 0]), image_files.tiff_tags(1, 1, [8, 8, 8], 8))
        assert row(data) == [[grey] * 3]


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
@pytest.mark.parametrize("mode", ["YCbCr", "CMYK", "RGB"])
def test_other_modes_of_a_tiff_become_rgb(mode, compression):
    levels = np.random.default_rng(0).integers(60, 200, (2, 2, 3), np.uint8)
    image = Image.fromarray(np.kron(levels, np.ones((8, 16, 1), np.uint8)))
    options = {"compression": compression} if compression else {}
    pixels = np.asarray(decode(encoded(image.convert(mode), "TIFF", **options))).astype(int)
    atol = 12 if compression == "jpeg" else 2
    np.testing.assert_allclose(pixels[4::8, 8::16], levels, atol=atol)


@pytest.mark.parametrize("step", [1, 2])
def test_an_uncompressed_tiff_in_ycbcr_is_converted(step):
    # Full luminance of each pixel, and one pair of colours for step x step of them.
    block = [76] * (step * step) + [85, 255]
    tags = {**image_files.tiff_tags(4, 4, [8] * 3, 6), 530: ("H", [step, step])}
    pixels = np.asarray(decode(image_files.tiff(bytes(block * (16 // step**2)), tags)))
    assert pixels.shape == (4, 4, 3)
    np.testing.assert_allclose(pixels, np.broadcast_to((254, 0, 0), (4, 4, 3)), atol=2)


@pytest.mark.parametrize(
    ("levels", "alpha", "expected"), [((100, 20, 45), 128, (227, 147, 172)), ((9, 9, 9), 0, (255,) * 3)]
)
@pytest.mark.parametrize("extra", [1, 2])
def test_alpha_that_is_multiplied_in_or_not_is_laid_on_white(levels, alpha, expected, extra):
    if extra == 2:
        expected = tuple(round(255 + (level - 255) * alpha / 255) for level in levels)
    tags = {**image_files.tiff_tags(1, 1, [8] * 4, 2), 338: ("H", [extra])}
    np.testing.assert_allclose(row(image_files.tiff(bytes([*levels, alpha]), tags))[0], expected, atol=2)


@pytest.mark.parametrize("mode", ["La", "LA", "PA", "RGBa", "RGBA"])
def test_every_mode_with_alpha_is_laid_on_white(mode):
    image = Image.new("RGBA", (2, 1), (40, 40, 40, 255))
    image.putpixel((1, 0), (40, 40, 40, 0))
    image = {"La": image.convert("LA"), "PA": image.convert("P")}.get(mode, image).convert(mode)
    pixels = np.asarray(to_rgb(image, b""))[0].tolist()
    assert pixels == [[40, 40, 40], [255, 255, 255]]


def test_one_bit_is_black_or_white():
    image = Image.new("1", (2, 1), 0)
    image.putpixel((1, 0), 1)
    for kind in ("PNG", "TIFF", "BMP", "PPM"):
        assert row(encoded(image, kind)) == [[0, 0, 0], [255, 255, 255]]
