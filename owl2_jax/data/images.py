"""Images: any file to RGB, RGB to the square the vision encoder takes.

`decode` reads a file, `fit` brings it to H x W by one of three modes (`augment.py`
is the random alternative of stage 1), `normalize` gives CLIP's pixel values.

    pad      mean colour around the image to make a square, then resize
    resize   stretch to a square of the longest edge, then resize
    none     shortest edge to the size, then the centre is cut out

The pixels equal those of the released code to the last bit.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import struct
import threading
import warnings
from typing import NoReturn

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from owl2_jax.core.buckets import StoreError
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.paths import in_bucket
from owl2_jax.core.pixels import CLIP_MEAN, CLIP_STD
from owl2_jax.data import image_blocks, image_colours, image_kinds, tiff_errors
from owl2_jax.data.bucket_reads import read_object
from owl2_jax.data.image_modes import LARGE, MODES
from owl2_jax.data.image_modes import PAD_COLOUR as PAD_COLOUR

_MEAN, _STD = np.array(CLIP_MEAN, np.float32), np.array(CLIP_STD, np.float32)
MAX_PIXELS = 89_478_485  # 256 MiB of RGB
LONGEST_STRETCHED = 12_288  # of mode "resize", whose work grows with the square: some seconds

# Formats that Pillow decodes itself and knows by their first bytes. The rest of
# its list is left out: EPS, for one, would start Ghostscript on a stranger's file.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "MPO")

# What matters of an image is an error here. Pillow's own words on metadata, and on a size that
# is checked here, would come once per file.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
logging.getLogger("PIL").addHandler(logging.NullHandler())
logging.getLogger("PIL").propagate = False  # a library may have given the root logger a handler

# Pillow's plugins import each other, which several threads must not do at once.
_REGISTERING = threading.Lock()

# Errors that are none of metadata.
_NOT_METADATA = (UnidentifiedImageError, image_colours.UnsupportedColours, Image.DecompressionBombError)
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
    """An image that cannot be used.

    Attributes:
      reason: a short key for counting: "missing", "unreadable", "corrupt",
        "unsupported" or "oversized".
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
    limit: str = "",
) -> np.ndarray:
    """Reads an image and fits it: `fit(decode(source), mode, size)`, uint8[size, size, 3].

    Raises: ImageError and UnknownNameError, as those two.
    """
    _require_mode(mode)
    return fit(decode(source, name, max_pixels, limit), mode, size, name or _name(source), max_pixels)


def decode(
    source: bytes | str | os.PathLike,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    limit: str = "",
) -> Image.Image:
    """Reads an image as 8-bit RGB, upright.

    The EXIF orientation is applied; a block of metadata that is damaged is left
    out. Transparency is laid on white, the colour of the page such images are
    drawn for. Of an animation the first frame is taken. What other colours and
    depths become says `image_colours`.

    Args:
      source: the file's bytes, or its path.
      name: what errors call the image; the path when left out.
      max_pixels: largest width x height; checked before pixels are decoded. It
        takes the place of Pillow's own limit.
      limit: what errors call `max_pixels`.

    Raises:
      ImageError: missing, unreadable, damaged, of an unsupported kind, or too large.
    """
    name = name or _name(source)
    data = source if isinstance(source, bytes) else read_file(source, name)
    try:
        return _decode(data, name, max_pixels, limit)
    except ImageError:
        raise
    except Exception as error:
        bare = _without_damaged_metadata(data, error, name, max_pixels, limit)
        if bare is None:
            _raise_unreadable(error, data, name)
        return bare


def fit(
    image: Image.Image, mode: str, size: int, name: str = "<image>", max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Brings an RGB image to uint8[size, size, 3] by one of the modes in `MODES`.

    Raises:
      UnknownNameError: for another mode.
      ImageError: the image is so long that size x its longer side is more than
        `max_pixels` and `LARGE`, or in mode "resize" longer than `LONGEST_STRETCHED`.
    """
    _require_mode(mode)
    _check_length(image.size, mode, size, name, max_pixels)
    return np.asarray(MODES[mode](image, size))


def normalize(pixels: np.ndarray) -> np.ndarray:
    """Returns (x / 255 - CLIP_MEAN) / CLIP_STD of uint8[..., 3], as float32[..., 3]."""
    return (_LEVELS[pixels] - _MEAN) / _STD


def _require_mode(mode: str) -> None:
    if mode not in MODES:
        raise unknown_name("image mode", mode, MODES)


def _check_length(size: tuple[int, int], mode: str, edge: int, name: str, max_pixels: int) -> None:
    """Raises `ImageError` for an image so long that the mode would build, or do, too much."""
    long = max(size)
    if edge * long > max(max_pixels, LARGE):
        raise ImageError(
            f"the image {name} has {size[0]} x {size[1]} pixels; image mode {mode!r} would make "
            f"{edge} x {long} of it, expected at most {max(max_pixels, LARGE)}; crop it",
            "oversized",
        )
    if mode == "resize" and long > LONGEST_STRETCHED:
        raise ImageError(
            f"the image {name} has {size[0]} x {size[1]} pixels; image mode 'resize' stretches it to a "
            f"square, expected at most {LONGEST_STRETCHED} on the longer side; crop it",
            "oversized",
        )


# ---- reading -----------------------------------------------------------------


def read_file(path: str | os.PathLike, name: str | None = None) -> bytes:
    """The bytes of an image's file.

    Raises:
      ImageError: "missing", or "unreadable" for what is there.
      StoreError: its bucket's store does not answer, or knows no credentials: no fault of the image.
    """
    try:
        if in_bucket(path):
            return _from_bucket(path)
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise unreadable("image", name or os.fspath(path), error) from error


def _from_bucket(path: str | os.PathLike) -> bytes:
    try:
        return read_object(os.fspath(path))
    except StoreError:
        raise
    except Owl2Error as error:
        raise OSError(str(error)) from error


def unreadable(what: str, name: str, error: OSError | ValueError) -> ImageError:
    """The error for a file that could not be opened or read; ValueError comes of a path no file can have."""
    reason = getattr(error, "strerror", None) or error
    missing = isinstance(error, FileNotFoundError | NotADirectoryError | ValueError)
    remedy = "check the path" if missing else "check the disk it lies on"
    if isinstance(error, IsADirectoryError):
        remedy = "it is a folder, expected a file"
    elif isinstance(error, PermissionError):
        remedy = "it is there, but this user may not read it; change its permissions"
    return ImageError(
        f"cannot read the {what} {name}: {reason}; {remedy}", "missing" if missing else "unreadable"
    )


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats of `FORMATS` that this build of Pillow has."""
    with _REGISTERING:
        Image.init()
        return tuple(name for name in FORMATS if name in Image.OPEN)


def _name(source: bytes | str | os.PathLike) -> str:
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else os.fspath(source)


def _decode(data: bytes, name: str, max_pixels: int, limit: str) -> Image.Image:
    frame = image_blocks.hidden_first_frame(data)
    if frame is not None:
        _check_pixels(frame.canvas, name, max_pixels, limit)
        shown = _decode(frame.data, name, max_pixels, limit)
        return _upright(_placed(shown, frame.canvas, frame.place), _orientation(open_image(data)))
    image = open_image(data)
    _check_pixels(image.size, name, max_pixels, limit)
    # Pillow has a limit of its own, in `crop` too; the one here was asked for.
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels
    box = _covered(image)
    image_colours.prepare(image)
    _load(image)
    rgb = image_colours.to_rgb(image, data)
    if box is not None:
        rgb = _placed(rgb.crop(box), rgb.size, box[:2])
    return _upright(rgb, _orientation(image))


def _load(image: ImageFile.ImageFile) -> None:
    """Decodes the pixels. Raises `OSError`, among others, also where libtiff went on after an error."""
    if image.format != "TIFF":
        image.load()
        return
    with tiff_errors.collected() as errors:
        try:
            image.load()
        except OSError as error:
            if not errors:
                raise
            raise OSError(errors[0]) from error
    if errors:
        raise OSError(errors[0])


def _without_damaged_metadata(
    data: bytes, error: Exception, name: str, max_pixels: int, limit: str
) -> Image.Image | None:
    """The image read once more, without metadata; None where that was not what is damaged."""
    if isinstance(error, _NOT_METADATA):
        return None
    for keep_exif in (True, False):
        bare = image_blocks.without_metadata(data, keep_exif)
        if bare is not None:
            with contextlib.suppress(Exception):
                return _decode(bare, name, max_pixels, limit)
    return None


def open_image(data: bytes) -> ImageFile.ImageFile:
    """Reads an image's header, as `Image.open`, of `FORMATS` alone and without Pillow's limit of pixels.

    Raises:
      UnidentifiedImageError: the file does not begin as any of them.
      Exception: of many types, where its header is damaged.
    """
    damage: Exception | None = None
    for kind in _formats():
        factory, accepts = Image.OPEN[kind]
        accepted = accepts is None or accepts(data[:16])
        if not accepted or isinstance(accepted, str):  # a text says why it cannot be read
            continue
        try:
            return factory(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            damage = damage or error
    raise damage or UnidentifiedImageError


def _covered(image: ImageFile.ImageFile) -> tuple[int, int, int, int] | None:
    """The part of a GIF's canvas that its first frame covers; None for all of it.

    Pillow fills the rest with the palette's first colour; browsers show the page through it.
    """
    if image.format != "GIF" or not image.tile:
        return None
    box = image.tile[0].extents
    return None if box is None or box == (0, 0, *image.size) else box


def _placed(image: Image.Image, size: tuple[int, int], place: tuple[int, ...]) -> Image.Image:
    page = Image.new("RGB", size, "white")
    page.paste(image, (place[0], place[1]))
    return page


def _check_pixels(size: tuple[int, int], name: str, max_pixels: int, limit: str) -> None:
    width, height = size
    if width * height == 0:
        raise ImageError(f"the image {name} is {width} x {height}, it has no pixels; replace it", "corrupt")
    if width * height > max_pixels:
        limit = f" ({limit})" if limit else ""
        raise ImageError(
            f"the image {name} takes {width} x {height} pixels, expected at most {max_pixels}{limit}; "
            "shrink it",
            "oversized",
        )


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation; 1, upright, where there is none or the block is damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the parser raises many types; the image is good without it
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    transpose = _TRANSPOSE.get(orientation)
    return image if transpose is None else image.transpose(transpose)


def _raise_unreadable(error: Exception, data: bytes, name: str) -> NoReturn:
    unknown = isinstance(error, UnidentifiedImageError)
    kind = image_kinds.unread_kind(data)
    if kind is not None:
        raise ImageError(
            f"{name} ({len(data)} bytes) is no image of a known kind but {kind[0]}; {kind[1]}",
            "unsupported",
        ) from error
    if isinstance(error, image_colours.UnsupportedColours):
        raise ImageError(f"the image {name} {error}", "unsupported") from error
    if isinstance(error, Image.DecompressionBombError):
        raise ImageError(
            f"the image {name} has a frame or tile of more pixels than its file may have", "oversized"
        ) from error
    if unknown:
        message = (
            f"{name} ({len(data)} bytes) is no image of a known kind; expected one of {', '.join(FORMATS)}"
        )
        if image_kinds.is_text(data):
            raise ImageError(f"{message}; it is text", "unsupported") from error
        raise ImageError(message, "corrupt") from error
    reason = " ".join(str(error).split()) or type(error).__name__
    raise ImageError(f"the image {name} is damaged: {reason}; replace the file", "corrupt") from error
