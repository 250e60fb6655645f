"""Images on their way to the device: read once, encoded once, found again by their content."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data import images
from owl2_jax.model.config import Owl2Config

Array = jax.Array


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


class FeaturePool:
    """Features of the images used last, on the device.

    Attributes:
      array: dtype[F, Q + 1, D].
      rows: F.
      encoded: how many images were encoded so far.
    """

    def __init__(
        self,
        config: Owl2Config,
        rows: int,
        encode: Callable[[Array, np.ndarray, np.ndarray], Array],
        batches: Sequence[int],
    ):
        """Makes an empty pool.

        Args:
          rows: F.
          encode: writes the features of uint8[M, H, W, 3] into rows int32[M] of the pool.
          batches: what M may be, ascending.
        """
        shape = (rows, config.tokens_per_image, config.decoder.width)
        self.array: Array = jnp.zeros(shape, config.dtype)
        self.rows = rows
        self.encoded = 0
        self._encode = encode
        self._batches = tuple(batches)
        self._row: OrderedDict[bytes, int] = OrderedDict()  # least recently used first

    def __contains__(self, image: RequestImage) -> bool:
        return image.key in self._row

    def forget(self) -> None:
        """Every image is encoded again when it is next wanted."""
        self._row.clear()

    def row(self, image: RequestImage) -> int:
        """Where the features of an image that was made ready stand."""
        return self._row[image.key]

    def make_ready(self, images: Iterable[RequestImage]) -> None:
        """Encodes what is missing, in batches; at most F different images at once."""
        wanted = {image.key: image for image in images}
        for key in wanted.keys() & self._row.keys():
            self._row.move_to_end(key)
        missing = [image for key, image in wanted.items() if key not in self._row]
        largest = self._batches[-1]
        for dtype in (np.uint8, np.float32):
            alike = [image for image in missing if image.pixels().dtype == dtype]
            for start in range(0, len(alike), largest):
                self._encode_batch(alike[start : start + largest])

    def _encode_batch(self, images: Sequence[RequestImage]) -> None:
        pixels = [image.pixels() for image in images]
        rows = [self._take_row(image.key) for image in images]
        padding = next(size for size in self._batches if size >= len(images)) - len(images)
        pixels += [np.zeros_like(pixels[0])] * padding
        rows += [self.rows] * padding
        self.array = self._encode(self.array, np.stack(pixels), np.array(rows, np.int32))
        self.encoded += len(images)
        for image in images:
            image.forget()

    def _take_row(self, key: bytes) -> int:
        row = len(self._row) if len(self._row) < self.rows else self._row.popitem(last=False)[1]
        self._row[key] = row
        return row
