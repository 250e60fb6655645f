"""The three ways from an image of any size to a square.

All resampling is Pillow's bicubic filter on 8 bits, with the intermediate
images of the released code, so that the pixels are the same to the last bit.
Each mode has a way for images so long that such an intermediate image would
be large; it builds `size` x the longer side at most and gives the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from owl2_jax.data import resampling

PAD_COLOUR = (122, 116, 104)  # CLIP's mean in 8 bits, rounded down
LARGE = 1 << 24  # pixels, 64 MiB in Pillow: more is not built at once

_BICUBIC = Image.Resampling.BICUBIC


def pad(image: Image.Image, size: int) -> Image.Image:
    """A square of `size` pixels with the whole image in its middle, on the mean colour."""
    width, height = image.size
    edge = max(width, height)
    if height > width and edge * edge > LARGE:
        return _pad_narrow(image, size)
    if width > height:
        # Pillow resizes rows first and each row by itself, so rows of one colour
        # may just as well be added afterwards: the same pixels for less work.
        image = image.resize((size, height), _BICUBIC)
    canvas = Image.new("RGB", (size if width > height else edge, edge), PAD_COLOUR)
    canvas.paste(image, ((canvas.width - image.width) // 2, (edge - height) // 2))
    return canvas.resize((size, size), _BICUBIC)


def _pad_narrow(image: Image.Image, size: int) -> Image.Image:
    """As `pad` for a tall image, where only the columns that see the image are computed."""
    width, height = image.size
    left = (height - width) // 2
    first, last = resampling.touched(height, size, left, left + width)
    columns = np.ascontiguousarray(np.asarray(image).transpose(1, 0, 2))
    narrow = resampling.resize_rows(columns, height, size, first, last, left, PAD_COLOUR)
    middle = Image.fromarray(np.ascontiguousarray(narrow.transpose(1, 0, 2)))
    canvas = Image.new("RGB", (size, size), PAD_COLOUR)
    canvas.paste(middle.resize((last - first, size), _BICUBIC), (first, 0))
    return canvas


def stretch(image: Image.Image, size: int) -> Image.Image:
    """A square of `size` pixels that the whole image fills, by way of a square of its longer edge."""
    edge = max(image.size)
    if edge * edge <= LARGE:
        return image.resize((edge, edge), _BICUBIC).resize((size, size), _BICUBIC)
    pixels = np.asarray(image)
    rows = np.empty((edge, size, 3), np.uint8)
    step = max(1, LARGE // (4 * edge))
    for top in range(0, edge, step):
        bottom = min(top + step, edge)
        if image.width == edge:
            part = Image.fromarray(resampling.resize_rows(pixels, image.height, edge, top, bottom))
        else:
            part = Image.fromarray(pixels[top:bottom]).resize((edge, bottom - top), _BICUBIC)
        rows[top:bottom] = np.asarray(part.resize((size, bottom - top), _BICUBIC))
    return Image.fromarray(rows).resize((size, size), _BICUBIC)


def crop_centre(image: Image.Image, size: int) -> Image.Image:
    """A square of `size` pixels from the image's middle, its shorter side kept whole."""
    short, long = sorted(image.size)
    scaled = int(size * long / short)
    start = (scaled - size) // 2
    if scaled * size > LARGE:
        return _cut_centre(image, size, scaled, start)
    upright = image.width <= image.height
    image = image.resize((size, scaled) if upright else (scaled, size), _BICUBIC)
    left, top = (0, start) if upright else (start, 0)
    return image.crop((left, top, left + size, top + size))


def _cut_centre(image: Image.Image, size: int, scaled: int, start: int) -> Image.Image:
    """As `crop_centre`, where only what stays of the longer side is computed."""
    if image.width <= image.height:
        pixels = np.asarray(image.resize((size, image.height), _BICUBIC))
        return Image.fromarray(resampling.resize_rows(pixels, image.height, scaled, start, start + size))
    columns = np.ascontiguousarray(np.asarray(image).transpose(1, 0, 2))
    cut = resampling.resize_rows(columns, image.width, scaled, start, start + size)
    return Image.fromarray(np.ascontiguousarray(cut.transpose(1, 0, 2))).resize((size, size), _BICUBIC)


MODES: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "pad": pad,
    "resize": stretch,
    "none": crop_centre,
}
