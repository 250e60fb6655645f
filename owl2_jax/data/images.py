"""Pictures: any file to RGB, RGB to the square the vision encoder takes.

`decode` reads a file, `fit` brings it to H x W by one of three modes (`augment.py`
is the random alternative of stage 1), `normalize` gives CLIP's pixel values.

    pad      mean colour around the picture to make a square, then resize
    resize   stretch to a square of the longest edge, then resize
    none     shortest edge to the size, then the centre is cut out

All resampling is Pillow's bicubic filter on 8 bits, with the intermediate
pictures of the released code, so that the pixels are the same to the last bit.
"""

from __future__ import annotations

import functools
import io
import os
import threading
import warnings
from collections.abc import Callable
from typing import NoReturn

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from owl2_jax.core.errors import Owl2Error, unknown_name

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
PAD_COLOUR = (122, 116, 104)  # CLIP's mean in 8 bits, rounded down
MAX_PIXELS = 89_478_485  # 256 MiB of RGB, the size at which Pillow starts to warn

# Formats that Pillow decodes itself and knows by their first bytes. The rest of
# its list is left out: EPS, for one, would start Ghostscript on a stranger's file.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "MPO")

# The limit here is checked on every picture and its error says what to do.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# Pillow's plugins import each other, which several threads must not do at once.
_REGISTERING = threading.Lock()

_BICUBIC = Image.Resampling.BICUBIC
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LEVELS = (np.arange(256) * (1 / 255)).astype(np.float32)  # the 256 levels, rescaled in float64


class ImageError(Owl2Error):
    """A picture that cannot be used.

    Attributes:
      reason: a short key for counting: "missing", "corrupt", "unsupported" or
        "oversized".
    """

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):
        return ImageError, (self.args[0], self.reason)


def load(
    source: bytes | str | os.PathLike,
    mode: str,
    size: int,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Reads a picture and fits it: `fit(decode(source), mode, size)`, uint8[size, size, 3].

    Raises: ImageError and UnknownNameError, as those two.
    """
    _require_mode(mode)
    return fit(decode(source, name, max_pixels), mode, size, name or _name(source), max_pixels)


def decode(
    source: bytes | str | os.PathLike, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Reads a picture as 8-bit RGB, upright.

    The EXIF orientation is applied. Transparency is laid on white, the colour of
    the page such pictures are drawn for. Of an animation the first frame is
    taken, of 16 bits the upper eight. CMYK, grey and palette are converted.

    Args:
      source: the file's bytes, or its path.
      name: what errors call the picture; the path when left out.
      max_pixels: largest width x height; checked before pixels are decoded.
        Pillow itself refuses pictures of more than twice `MAX_PIXELS`.

    Raises:
      ImageError: missing, unreadable, of an unsupported kind, or too large.
    """
    name = name or _name(source)
    data = source if isinstance(source, bytes) else _read(source, name)
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
        _check_pixels(image.size, name, max_pixels)
        image.load()
        return _to_rgb(_upright(image), name)
    except ImageError:
        raise
    except Exception as error:
        _raise_unreadable(error, data, name)


def fit(
    image: Image.Image, mode: str, size: int, name: str = "<image>", max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Brings an RGB picture to uint8[size, size, 3] by one of the modes in `MODES`.

    Raises:
      UnknownNameError: for another mode.
      ImageError: the picture is so long and thin that the mode's intermediate
        picture has more than `max_pixels`.
    """
    _require_mode(mode)
    between, work = MODES[mode]
    _check_pixels(between(image, size), name, max_pixels)
    return np.asarray(work(image, size))


def normalize(pixels: np.ndarray) -> np.ndarray:
    """Returns (x / 255 - CLIP_MEAN) / CLIP_STD of uint8[..., 3], as float32[..., 3]."""
    return (_LEVELS[pixels] - CLIP_MEAN) / CLIP_STD


# ---- the three modes: how large the picture in between is, and the work ------


def _square_of(image: Image.Image, size: int) -> tuple[int, int]:
    return (max(image.size),) * 2


def _pad(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    edge = max(width, height)
    if width > height:
        # Pillow resizes rows first and each row by itself, so rows of one colour
        # may just as well be added afterwards: the same pixels for less work.
        image = image.resize((size, height), _BICUBIC)
    canvas = Image.new("RGB", (size if width > height else edge, edge), PAD_COLOUR)
    canvas.paste(image, ((canvas.width - image.width) // 2, (edge - height) // 2))
    return canvas.resize((size, size), _BICUBIC)


def _stretch(image: Image.Image, size: int) -> Image.Image:
    return image.resize(_square_of(image, size), _BICUBIC).resize((size, size), _BICUBIC)


def _shortest_to(image: Image.Image, size: int) -> tuple[int, int]:
    short, long = sorted(image.size)
    scaled = int(size * long / short)
    return (size, scaled) if image.width <= image.height else (scaled, size)


def _crop_centre(image: Image.Image, size: int) -> Image.Image:
    image = image.resize(_shortest_to(image, size), _BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


_Fitter = tuple[Callable[[Image.Image, int], tuple[int, int]], Callable[[Image.Image, int], Image.Image]]
MODES: dict[str, _Fitter] = {
    "pad": (_square_of, _pad),
    "resize": (_square_of, _stretch),
    "none": (_shortest_to, _crop_centre),
}


def _require_mode(mode: str) -> None:
    if mode not in MODES:
        raise unknown_name("image mode", mode, MODES)


# ---- reading -----------------------------------------------------------------


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats of `FORMATS` that this build of Pillow has."""
    with _REGISTERING:
        Image.init()
        return tuple(name for name in FORMATS if name in Image.OPEN)


def _name(source: bytes | str | os.PathLike) -> str:
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else os.fspath(source)


def _read(path: str | os.PathLike, name: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a path no file can have
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot read the picture {name}: {reason}; check the path", "missing") from error


def _check_pixels(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width * height == 0:
        raise ImageError(f"the picture {name} is {width} x {height}, it has no pixels; replace it", "corrupt")
    if width * height > max_pixels:
        raise ImageError(
            f"the picture {name} takes {width} x {height} pixels, expected at most {max_pixels}; "
            "shrink it or raise the limit",
            "oversized",
        )


def _upright(image: Image.Image) -> Image.Image:
    transpose = _TRANSPOSE.get(image.getexif().get(ExifTags.Base.Orientation))
    return image if transpose is None else image.transpose(transpose)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _from_16_bits(image, name).convert("RGB")
    if image.mode == "F":
        raise ImageError(
            f"the picture {name} has floating-point pixels; expected 8 or 16 bits", "unsupported"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Image.Image, name: str) -> Image.Image:
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65_535:
        raise ImageError(f"the picture {name} has 32-bit pixels; expected 8 or 16 bits", "unsupported")
    return Image.fromarray((levels >> 8).astype(np.uint8))


def _raise_unreadable(error: Exception, data: bytes, name: str) -> NoReturn:
    if isinstance(error, Image.DecompressionBombError):
        raise ImageError(f"the picture {name} is too large: {error}", "oversized") from error
    if isinstance(error, UnidentifiedImageError):
        message = (
            f"{name} ({len(data)} bytes) is no picture of a known kind; expected one of {', '.join(FORMATS)}"
        )
        raise ImageError(message, "corrupt") from error
    reason = str(error).strip() or type(error).__name__
    raise ImageError(f"the picture {name} is damaged: {reason}; replace the file", "corrupt") from error
