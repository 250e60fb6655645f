"""Images of requests: read once, and known by their content."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np
from PIL import Image

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data import images


class RequestImage:
    """One image of a request, decoded when its pixels are first wanted.

    The source is a path, the bytes of a file, uint8[h, w, 3] RGB of any size, or
    float32[H, W, 3] at the model's size and normalised as CLIP wants it.

    Attributes:
      key: digest of the content, the image mode included; equal images have
        equal keys, wherever they came from.
    """

    def __init__(self, source: str | os.PathLike | bytes | np.ndarray, mode: str, size: int):
        self._mode, self._size = mode, size
        self._name = str(source) if isinstance(source, (str, os.PathLike)) else "the image"
        self._source: bytes | np.ndarray = _content(source)
        self._pixels: np.ndarray | None = None
        digest = hashlib.blake2b(mode.encode(), digest_size=16)
        if isinstance(self._source, bytes):
            digest.update(self._source)
        else:
            digest.update(repr((self._source.shape, self._source.dtype.str)).encode())
            digest.update(np.ascontiguousarray(self._source).tobytes())
        self.key = digest.digest()

    def pixels(self) -> np.ndarray:
        """uint8[H, W, 3] at the model's size (float32 from a float32 source).

        Raises `Owl2Error` when the content is no image.
        """
        if self._pixels is None:
            if isinstance(self._source, bytes):
                self._pixels = images.load(self._source, self._mode, self._size, self._name)
            else:
                self._pixels = _fit_array(self._source, self._mode, self._size)
        return self._pixels

    def forget(self) -> None:
        """Lets go of the pixels; they can be had again from the content."""
        self._pixels = None


def _content(source: Any) -> bytes | np.ndarray:
    if isinstance(source, (bytes, np.ndarray)):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise Owl2Error(f"an image is a path, bytes or an array; found {type(source).__name__}")
    return images.read_file(source)


def _fit_array(pixels: np.ndarray, mode: str, size: int) -> np.ndarray:
    if pixels.dtype == np.float32 and pixels.shape == (size, size, 3):
        return pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise Owl2Error(
            f"an image as an array is uint8[height, width, 3], or normalised float32[{size}, {size}, 3]; "
            f"found {pixels.dtype}{list(pixels.shape)}"
        )
    return images.fit(Image.fromarray(pixels), mode, size)
