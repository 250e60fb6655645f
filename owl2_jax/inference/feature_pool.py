"""Features of images on the device: encoded once, found again by the content of the image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from owl2_jax.inference.images import RequestImage
from owl2_jax.model.config import Owl2Config

Array = jax.Array


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
