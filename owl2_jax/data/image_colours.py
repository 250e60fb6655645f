"""Decoded images of any mode to 8-bit RGB on a white page.

8 bits          grey, palette, CMYK, YCbCr, CIELAB (D50): converted
16 bits         the upper eight; of 12 bits too
32-bit integer  as 8 bits where no value is above 255, as 16 bits where one is
                above 4095; anything else is refused, for its white is unknown
floating point  refused, for the same reason
transparent     laid on white: alpha, palette entries, and the one colour or
                grey of PNG's `tRNS`, compared at the file's own depth
"""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageFile

from owl2_jax.data import image_blocks

_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SIGNED = 258, 262, 339
_WHITE_IS_ZERO, _YCBCR = 0, 6
_PNG_GREY, _PNG_RGB = 0, 2
_STRIP = 1 << 20  # pixels that are worked on at a time


class UnsupportedColours(Exception):
    """Pixels whose meaning the file does not tell; the text says what was found and what is read."""


def to_rgb(image: Image.Image, data: bytes) -> Image.Image:
    """Brings a loaded image to 8-bit RGB.

    Args:
      data: the file it was loaded from.

    Raises:
      UnsupportedColours: floating-point pixels, or integers whose white is unknown.
    """
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image
    if mode == "F":
        raise UnsupportedColours(
            "has floating-point pixels, whose white is unknown; expected 8 or 16 bits, save it as such"
        )
    if mode == "LAB":
        return _from_lab(image)
    if mode.startswith("I"):
        rgb = _eight_bits(image).convert("RGB")
    elif mode in ("La", "RGBa"):
        return to_rgb(image.convert(mode.upper()), data)
    elif mode in ("1", "L", "RGB"):
        rgb = image.convert("RGB")
    elif image.has_transparency_data:
        return _on_white(image.convert("RGBA"))
    else:
        return image.convert("RGB")
    clear = _clear(image, data)
    return rgb if clear is None else _whitened(rgb, clear)


def prepare(image: ImageFile.ImageFile) -> None:
    """Lets libtiff, which knows how, read an uncompressed TIFF in YCbCr; before the image is loaded."""
    if image.format != "TIFF" or getattr(image, "tag_v2", {}).get(_TIFF_PHOTOMETRIC) != _YCBCR:
        return
    if image.mode == "RGB" and image.tile and image.tile[0].codec_name == "raw":
        size, offset = image._tile_size, image.tag_v2.offset  # type: ignore[attr-defined]
        image.tile = [ImageFile._Tile("libtiff", (0, 0, *size), 0, ("RGBX", "raw", False, offset))]
        image.use_load_libtiff = True  # type: ignore[attr-defined]


def _on_white(image: Image.Image) -> Image.Image:
    result = Image.new("RGB", image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):  # in strips, as each step makes an image of its own
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        page = Image.new("RGBA", part.size, "white")
        result.paste(Image.alpha_composite(page, part).convert("RGB"), (0, top))
    return result


def _whitened(image: Image.Image, clear: np.ndarray) -> Image.Image:
    """Paints, in place, white where an image is clear."""
    image.paste("white", mask=Image.fromarray(clear.astype(np.uint8) * 255))
    return image


def _clear(image: Image.Image, data: bytes) -> np.ndarray | None:
    """bool[h, w]: where an image without alpha has the one colour that means "nothing"; None without one."""
    key = image.info.get("transparency")
    if key is None:
        return None
    if not data.startswith(image_blocks.PNG):
        return np.asarray(image) == key
    colour = image_blocks.png_colour(data)
    key = np.frombuffer(colour.transparent or b"", ">u2").astype(np.int64) & ((1 << colour.depth) - 1)
    if len(key) != {_PNG_GREY: 1, _PNG_RGB: 3}.get(colour.kind):
        raise ValueError("its transparent colour is cut off")
    if colour.kind == _PNG_GREY:
        # Pillow spreads less than 8 bits over 0 to 255.
        value = int(key[0]) if colour.depth >= 8 else int(key[0]) * 255 // ((1 << colour.depth) - 1)
        return np.asarray(image.convert("L") if image.mode == "1" else image) == value
    if colour.depth == 8:
        return (np.asarray(image) == key).all(-1)
    return ((np.asarray(image) == key >> 8) & (np.asarray(_low_bytes(data)) == (key & 255))).all(-1)


def _low_bytes(data: bytes) -> Image.Image:
    """The lower eight bits of a PNG of 3 x 16 bits: its samples read in the other byte order."""
    image = Image.open(io.BytesIO(data), formats=["PNG"])
    assert isinstance(image, ImageFile.ImageFile)
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    image.load()
    return image


# ---- more than 8 bits ----------------------------------------------------------


def _eight_bits(image: Image.Image) -> Image.Image:
    levels = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    bits = _first(tags.get(_TIFF_BITS, 16))
    if image.mode == "I" and tags:
        return _from_integers(levels, bits, signed=_first(tags.get(_TIFF_SIGNED, 1)) == 2)
    if levels.min() < 0 or levels.max() > 65_535:
        raise UnsupportedColours("has 32-bit pixels, whose white is unknown; expected 8 or 16 bits")
    levels = levels >> (bits - 8 if bits == 12 else 8)
    if tags and tags.get(_TIFF_PHOTOMETRIC, _WHITE_IS_ZERO) == _WHITE_IS_ZERO:
        levels = 255 - levels
    return Image.fromarray(levels.astype(np.uint8))


def _from_integers(levels: np.ndarray, bits: int, signed: bool) -> Image.Image:
    if not signed:
        levels = levels.view(np.uint32)
    lowest, highest = int(levels.min()), int(levels.max())
    if lowest >= 0 and highest <= 255:
        return Image.fromarray(levels.astype(np.uint8))
    if lowest >= 0 and 4095 < highest <= 65_535:
        return Image.fromarray((levels >> 8).astype(np.uint8))
    raise UnsupportedColours(
        f"has {bits}-bit pixels with values from {lowest} to {highest}, whose white is unknown; expected "
        "0 to 255, or up to 65535 with values above 4095: save it as 8 or 16 bits"
    )


def _first(value: object) -> int:
    return int(value[0] if isinstance(value, tuple) else value)  # type: ignore[call-overload]


# ---- CIELAB --------------------------------------------------------------------

# From CIE XYZ with the white of D50 to linear sRGB, with Bradford's adaptation to D65.
_SRGB_OF_XYZ = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ],
    np.float32,
)
_D50 = np.array([0.96422, 1.0, 0.82521], np.float32)
_STEPS = 65_535  # of linear light, fine enough for the darkest level of sRGB


@functools.cache
def _srgb_levels() -> np.ndarray:
    """uint8[_STEPS + 1]: the level of each step of linear light."""
    linear = np.arange(_STEPS + 1) / _STEPS
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(srgb * 255).astype(np.uint8)


def _from_lab(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    rows = max(1, _STRIP // 4 // pixels.shape[1])
    result = np.empty_like(pixels)
    for top in range(0, len(pixels), rows):
        result[top : top + rows] = _lab_to_srgb(pixels[top : top + rows])
    return Image.fromarray(result)


def _lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """uint8[..., 3] of uint8[..., 3]: L* (255 is 100), a* and b* (signed, as bytes)."""
    lightness = lab[..., 0].astype(np.float32)
    green_red, blue_yellow = np.moveaxis(lab[..., 1:].astype(np.int8).astype(np.float32), -1, 0)
    middle = (lightness * (100 / 255) + 16) / 116
    curved = np.stack([middle + green_red / 500, middle, middle - blue_yellow / 200], axis=-1)
    straight = (curved - 4 / 29) * (3 * (6 / 29) ** 2)
    xyz = np.where(curved > 6 / 29, curved * curved * curved, straight) * _D50
    linear = np.clip(xyz @ _SRGB_OF_XYZ.T, 0, 1)
    return _srgb_levels()[np.rint(linear * _STEPS).astype(np.int32)]
