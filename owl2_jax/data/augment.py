"""Random resized crop, flip and quarter turns: what a run trains on instead of `images.fit`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import check_values
from owl2_jax.core.ranges import PartKept, Positive, Share


@dataclass(frozen=True)
class Augment:
    """Random resized crop and horizontal flip, the augmentation of stage 1; quarter turns on request.

    Attributes:
      scale: smallest and largest share of the image's area.
      ratio: smallest and largest width / height of the crop.
      flip: probability of a horizontal flip.
      turn: also turn by a random number of quarters, for images that mean the same any way up.
    """

    scale: tuple[PartKept, PartKept] = (0.5, 1.0)
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    flip: Share = 0.5
    turn: bool = False

    def __post_init__(self):
        check_values(self, "data.augment")
        for name in ("scale", "ratio"):
            smallest, largest = getattr(self, name)
            if smallest > largest:
                raise Owl2Error(
                    f"data.augment.{name}: expected smallest <= largest, found {smallest}, {largest}"
                )


def augment(
    image: Image.Image, size: int, rng: np.random.Generator, settings: Augment = Augment()
) -> np.ndarray:
    """Cuts a random part out of an RGB image, resizes, perhaps flips and turns it.

    Everything random comes from `rng`, so that a record with its own seed gives
    the same uint8[size, size, 3] anywhere.
    """
    box = random_box(image.width, image.height, rng, settings)
    image = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
    if rng.random() < settings.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(image)
    return np.ascontiguousarray(np.rot90(pixels, rng.integers(4))) if settings.turn else pixels


def random_box(
    width: int, height: int, rng: np.random.Generator, settings: Augment
) -> tuple[int, int, int, int]:
    """Draws a crop (left, top, right, bottom): uniform in area, log-uniform in ratio."""
    for _ in range(10):
        area = width * height * rng.uniform(*settings.scale)
        ratio = np.exp(rng.uniform(*np.log(settings.ratio)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    # Too long or thin for such a crop: the largest one in the middle instead.
    w = min(width, max(1, round(height * settings.ratio[1])))
    h = min(height, max(1, round(width / settings.ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
