from __future__ import annotations

import errno
import io
import json
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from owl2_jax.core.errors import UnknownNameError
from owl2_jax.data.images import MODES, PAD_COLOUR, ImageError, decode, fit, load, normalize
from tests.fuzz import image_files
from tests.fuzz import images as fuzz

CASES = Path(__file__).parent / "cases" / "images"
GOLDEN = Path(__file__).parents[1] / "golden" / "images"
IMAGES = ("rand_100x60", "grad_60x100", "grad_448x448", "rand_37x301")
WHITE = (255, 255, 255)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(levels)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def corner(pixels: Image.Image) -> tuple[int, ...]:
    return pixels.getpixel((0, 0))


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds no pixels to speak of."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 64))
        + chunk(b"IEND", b"")
    )


# ---- golden data -----------------------------------------------------------


@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize(("file", "size", "step"), [("pixels_56", 56, 1), ("pixels_448_every7th", 448, 7)])
def test_pixels_equal_the_golden_ones_to_the_last_bit(mode, image, file, size, step):
    pixels = normalize(load(GOLDEN / f"{image}.png", mode, size))
    with np.load(GOLDEN / f"{file}.npz") as golden:
        expected = golden[f"{mode}/{image}"]
    assert pixels.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1)[:, ::step, ::step], expected)


def test_the_pad_colour_is_the_golden_configurations_mean():
    config = json.loads((GOLDEN / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert tuple(int(255 * mean) for mean in config["image_mean"]) == PAD_COLOUR


def test_padding_after_the_row_pass_equals_padding_before():
    for width, height, size in [(640, 480, 448), (301, 37, 56), (480, 640, 224), (50, 49, 98), (9, 1, 28)]:
        image = noise(width, height)
        edge = max(width, height)
        square = Image.new("RGB", (edge, edge), PAD_COLOUR)
        square.paste(image, ((edge - width) // 2, (edge - height) // 2))
        expected = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(fit(image, "pad", size), expected)


@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (33, 57), (14, 14)])
@pytest.mark.parametrize("size", [14, 28, 57])
def test_every_mode_gives_a_square_of_any_size(mode, shape, size):
    pixels = fit(noise(*shape), mode, size)
    assert pixels.shape == (size, size, 3)
    assert pixels.dtype == np.uint8


def test_normalize_is_clips():
    pixels = np.array([[[0, 128, 255]]], np.uint8)
    expected = [
        (0 - 0.48145466) / 0.26862954,
        (128 / 255 - 0.4578275) / 0.26130258,
        (1 - 0.40821073) / 0.27577711,
    ]
    np.testing.assert_allclose(normalize(pixels)[0, 0], expected, rtol=1e-6)


# ---- kinds of files --------------------------------------------------------


def test_bytes_and_path_give_the_same_pixels():
    path = GOLDEN / "rand_100x60.png"
    np.testing.assert_array_equal(load(path, "pad", 28), load(path.read_bytes(), "pad", 28))
    np.testing.assert_array_equal(load(str(path), "pad", 28), load(path, "pad", 28))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_lossless_formats_keep_every_pixel(kind):
    image = noise(20, 13)
    options = {"WEBP": {"lossless": True}, "JPEG2000": {"irreversible": False}}.get(kind, {})
    np.testing.assert_array_equal(decode(encoded(image, kind, **options)), image)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_applied(kind, orientation):
    # Four flat quarters, so that lossy formats keep them apart.
    quarters = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((16, 24), np.uint8))
    image = Image.fromarray(quarters).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.asarray(decode(encoded(image, kind, exif=exif)))[..., 0]
    turn = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: a.T[:, ::-1],
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: a.T[::-1],
    }.get(orientation, lambda a: a)
    expected = turn(quarters)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 8


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_and_palette_images_become_rgb(mode):
    image = noise(12, 12).convert(mode)
    np.testing.assert_array_equal(decode(encoded(image, "PNG")), image.convert("RGB"))


def test_transparency_is_laid_on_white():
    clear, half = Image.new("RGBA", (4, 4), (10, 20, 30, 0)), Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert corner(decode(encoded(clear, "PNG"))) == WHITE
    assert corner(decode(encoded(half, "PNG"))) == (127, 127, 127)
    assert corner(decode(encoded(Image.new("LA", (4, 4), (9, 0)), "PNG"))) == WHITE


def test_a_transparent_palette_entry_or_colour_is_laid_on_white():
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30] * 256)
    assert corner(decode(encoded(palette, "GIF", transparency=0))) == WHITE
    assert corner(decode(encoded(palette, "PNG", transparency=0))) == WHITE
    assert (
        corner(decode(encoded(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3)))) == WHITE
    )
    assert corner(decode(encoded(Image.new("L", (4, 4), 7), "PNG", transparency=7))) == WHITE


def test_cmyk_becomes_rgb():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for kind in ("JPEG", "TIFF"):
        red, green, blue = corner(decode(encoded(image, kind)))
        assert red > 200
        assert max(green, blue) < 60


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = {"WEBP": {"lossless": True}}.get(kind, {})
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert corner(decode(data)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_the_upper_eight(kind):
    levels = np.array([[0, 255, 256, 0x1234, 0x8000, 0xFFFF]], np.uint16)
    pixels = np.asarray(decode(encoded(Image.fromarray(levels), kind)))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 0x12, 0x80, 0xFF]


# ---- bad input -------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"no_such\.jpg: No such file or directory; check the path") as error:
        decode(tmp_path / "no_such.jpg")
    assert error.value.reason == "missing"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ImageError, match=r"a\.png: Not a directory; check the path") as error:
        decode(tmp_path / "file" / "a.png")
    assert error.value.reason == "missing"
    with pytest.raises(ImageError, match="null byte") as error:
        decode("a\0b.png")
    assert error.value.reason == "missing"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "an empty file; fetch it again"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript; save it as JPEG or PNG"),
    ],
)
def test_a_file_that_is_no_image_is_named(data, what):
    with pytest.raises(
        ImageError, match=r"shop/7.jpg \(\d+ bytes\) is no image of a known kind but"
    ) as error:
        decode(data, name="shop/7.jpg")
    assert str(error.value).endswith(what)
    assert error.value.reason == "unsupported"


def test_a_file_that_is_there_but_cannot_be_read_is_not_missing(tmp_path, monkeypatch):
    with pytest.raises(ImageError, match="Is a directory; it is a folder, expected a file") as error:
        decode(tmp_path)
    assert error.value.reason == "unreadable"

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(
        ImageError, match=r"a\.png: .*this user may not read it; change its permissions"
    ) as error:
        decode("a.png")
    assert error.value.reason == "unreadable"


def test_bytes_of_no_known_kind_are_text_or_corrupt():
    with pytest.raises(
        ImageError, match=r"x \(12 bytes\) is no image of a known kind; .*; it is text$"
    ) as error:
        decode(b"not an image", name="x")
    assert error.value.reason == "unsupported"
    with pytest.raises(
        ImageError, match=r"x \(4 bytes\) is no image of a known kind; expected one of JPEG"
    ) as error:
        decode(b"\0\1\2\3", name="x")
    assert error.value.reason == "corrupt"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_file_is_named(kind, tmp_path):
    data = encoded(noise(64, 64), kind)
    path = tmp_path / "half"
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ImageError, match=f"{path} ") as error:
        decode(path)
    assert error.value.reason == "corrupt"
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("width", [100_000, 2_000_000_000])
def test_a_huge_image_is_refused_before_its_pixels_are_decoded(width):
    with pytest.raises(ImageError, match=r"bomb\.png") as error:
        decode(png_header(width, 100_000), name="bomb.png")
    assert error.value.reason == "oversized"


def test_the_pixel_limit_is_the_callers():
    data = encoded(noise(30, 20), "PNG")
    assert decode(data, max_pixels=600).size == (30, 20)
    with pytest.raises(ImageError, match=r"takes 30 x 20 pixels, expected at most 599 \(data\.max_pixels\)"):
        decode(data, max_pixels=599, limit="data.max_pixels")


def test_pillows_own_limit_stands_in_no_ones_way(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = encoded(noise(30, 20), "PNG")
    assert load(data, "none", 14).shape == (14, 14, 3)
    assert decode(data, max_pixels=600).size == (30, 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="takes 30 x 20 pixels, expected at most 599"):
        decode(data, max_pixels=599)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_long_screenshot_is_loaded_in_every_mode(mode):
    # Its own pixels are all that counts: the limit is exactly those.
    pixels = load(CASES / "long.png", mode, 56, max_pixels=1080 * 9600)
    inside = pixels[:, 26:30] if mode == "pad" else pixels
    assert (inside == (200, 0, 0)).all()
    if mode == "pad":
        assert (pixels[:, 0] == PAD_COLOUR).all()
    with pytest.raises(ImageError, match=r"long\.png takes 1080 x 9600 pixels, expected at most 10367999"):
        load(CASES / "long.png", mode, 56, max_pixels=1080 * 9600 - 1)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_wide_screenshot_is_loaded_within_a_limit_of_its_own_size(mode):
    data = encoded(Image.new("RGB", (7200, 400), (9, 8, 7)), "PNG")
    assert (load(data, mode, 448, max_pixels=7200 * 400)[224] == (9, 8, 7)).all()


def test_a_image_too_long_for_a_mode_is_quoted_with_its_own_size():
    with pytest.raises(ImageError, match=r"strip has 20000 x 3 pixels; .*'resize'.*at most 12288") as error:
        fit(Image.new("RGB", (20_000, 3)), "resize", 14, name="strip")
    assert error.value.reason == "oversized"
    assert fit(Image.new("RGB", (20_000, 3)), "pad", 14).shape == (14, 14, 3)


def test_the_same_image_is_seen_when_its_metadata_is_damaged():
    assert corner(decode(CASES / "badexif_garbage.png")) == (255, 0, 0)
    assert decode(CASES / "badexif_garbage.png").size == (60, 40)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "PNG late", "JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize(
    "block", [b"\xff" * 30, b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"]
)
def test_a_damaged_exif_block_is_ignored_in_every_container(kind, block):
    fuzz.check_metadata(kind, block)


def test_a_wrong_sum_of_an_exif_block_changes_nothing():
    data = bytearray(fuzz.with_exif("PNG", b"II*\0\x08\0\0\0\0\0"))
    data[data.index(b"eXIf") + 5] ^= 1
    np.testing.assert_array_equal(decode(bytes(data)), fuzz.noise())


def test_a_wrong_sum_elsewhere_is_still_damage():
    data = bytearray(encoded(noise(9, 9), "PNG"))
    data[data.index(b"IHDR") + 20] ^= 1
    with pytest.raises(ImageError, match="damaged") as error:
        decode(bytes(data))
    assert error.value.reason == "corrupt"


def test_damaged_pointers_to_metadata_of_a_tiff_are_ignored():
    image = noise(9, 9)
    tags = image_files.tiff_tags(9, 9, [8, 8, 8], 2)
    for tag in (34665, 34853, 700):
        tags[tag] = ("I", [0xFFFFFFF0])
    np.testing.assert_array_equal(decode(image_files.tiff(np.asarray(image).tobytes(), tags)), image)


def test_an_exif_block_in_order_survives_damage_of_other_metadata():
    turned = fuzz.with_exif("PNG", b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0")
    at = turned.index(b"IDAT") - 4
    data = turned[:at] + image_files.chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 << 20))) + turned[at:]
    right = np.rot90(np.asarray(fuzz.noise()), -1)
    np.testing.assert_array_equal(decode(turned), right)
    np.testing.assert_array_equal(decode(data), right)


def test_the_hidden_image_of_an_animation_is_not_shown():
    pixels = np.asarray(decode(CASES / "hidden.png"))
    assert pixels.shape == (10, 10, 3)
    assert (pixels == (0, 128, 0)).all()


def test_around_a_first_frame_smaller_than_its_canvas_is_the_page():
    rng = np.random.default_rng(0)
    made = [image_files.gif(rng) for _ in range(40)]
    assert sum(each.right.shape[0] > 1 and (each.right[0] == 255).all() for each in made) > 5
    for each in made:
        fuzz.check_built(each)


def test_nothing_is_printed_while_damaged_metadata_is_read(tmp_path):
    names = []
    for number, kind in enumerate(("PNG", "JPEG", "WEBP")):
        names.append(tmp_path / str(number))
        names[-1].write_bytes(fuzz.with_exif(kind, b"II*\0\x08\0\0\0\1\0\x12\1\3\0\xff\0\0\0"))
    names.append(CASES / "i16trns.png")
    code = "import sys; from owl2_jax.data.images import decode; [decode(name) for name in sys.argv[1:]]"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, names)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_long_thin_image_cannot_blow_up_in_between(mode):
    with pytest.raises(ImageError, match=r"strip.*expected at most") as error:
        fit(Image.new("RGB", (300_000, 1)), mode, 448, name="strip")
    assert error.value.reason == "oversized"


def test_pixels_without_a_known_range_are_refused():
    floats = Image.fromarray(np.ones((3, 3), np.float32))
    integers = Image.fromarray(np.full((3, 3), 70_000, np.int32))
    for image, message in ((floats, "floating-point"), (integers, "32-bit")):
        with pytest.raises(ImageError, match=message) as error:
            decode(encoded(image, "TIFF"))
        assert error.value.reason == "unsupported"


def test_an_unknown_mode_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown image mode 'padding'; did you mean 'pad'"):
        fit(noise(4, 4), "padding", 14)
    with pytest.raises(UnknownNameError, match="image mode"):
        load(tmp_path / "not_even_there.png", "crop", 14)


def test_an_image_error_survives_the_way_back_from_a_worker_process():
    error = pickle.loads(pickle.dumps(ImageError("the image x is damaged", "corrupt")))
    assert (str(error), error.reason) == ("the image x is damaged", "corrupt")
