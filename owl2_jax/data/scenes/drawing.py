"""Scenes as images: every shape is a formula over the pixels of its cell, every letter three by five dots."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import Image

from owl2_jax.data.scenes.scene import GRID, Cell, Scene

SIDE: Final = 96  # pixels
_CELL: Final = SIDE // GRID
_DOT: Final = 2  # pixels of a letter's dot

_SHAPES: Final[dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "circle": lambda x, y: x**2 + y**2 <= 1,
    "ring": lambda x, y: (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.3),
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.85,
    "diamond": lambda x, y: abs(x) + abs(y) <= 1.05,
    "triangle": lambda x, y: (y <= 0.8) & (2 * abs(x) <= y + 1),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 1),
}
_COLORS: Final = {
    "red": (215, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 80, 210),
    "yellow": (235, 205, 40),
    "purple": (140, 50, 170),
    "orange": (240, 130, 30),
}
# Each digit is a row of dots from the top, a bit a dot.
_LETTERS: Final = {
    "a": "25755", "b": "65656", "c": "34443", "d": "65556", "e": "74647", "f": "74644", "g": "34553",
    "h": "55755", "i": "72227", "j": "11152", "k": "55655", "l": "44447", "m": "57755", "n": "65555",
    "o": "75557", "p": "65644", "q": "25573", "r": "65665", "s": "34216", "t": "72222", "u": "55557",
    "v": "55552", "w": "55775", "x": "55255", "y": "55222", "z": "71247",
}  # fmt: skip


def draw(scene: Scene) -> np.ndarray:
    """The scene as uint8[96, 96, 3]; equal scenes are equal to the last bit."""
    rng = np.random.default_rng(scene.look)
    grey = np.full((SIDE, SIDE, 1), float(rng.integers(200, 240)))
    if scene.level.noise:
        grey = grey + rng.normal(0.0, scene.level.noise, grey.shape)
    image = np.repeat(np.clip(grey, 0, 255), 3, axis=2).astype(np.uint8)
    for thing in scene.things:
        radius = scene.level.large if thing.is_large else scene.level.small
        room = _CELL / 2 - radius
        y, x = _pixels(thing.cell, *rng.uniform(-room, room, 2))
        image[_SHAPES[thing.pair.shape](x / radius, y / radius)] = _COLORS[thing.pair.color]
    for sign in scene.signs:
        _write(image, sign.word, sign.cell)
    return image


def png(scene: Scene) -> bytes:
    """The scene as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(draw(scene)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _pixels(cell: Cell, down: float, right: float) -> tuple[np.ndarray, np.ndarray]:
    """(y, x) of all pixels, float64[96, 1] and [1, 96], from a point beside a cell's middle."""
    places = np.arange(SIDE) + 0.5
    y, x = ((at + 0.5) * _CELL + off for at, off in zip(cell, (down, right), strict=True))
    return (places - y)[:, None], (places - x)[None, :]


def _write(image: np.ndarray, word: str, cell: Cell) -> None:
    """Writes dark letters on a white plate, in the middle of a cell."""
    rows = [[int(_LETTERS[letter][row]) for letter in word] for row in range(5)]
    dots = np.array([[bit for three in row for bit in (three & 4, three & 2, three & 1, 0)] for row in rows])
    plate = np.pad(dots[:, :-1] > 0, 1).repeat(_DOT, 0).repeat(_DOT, 1)
    height, width = plate.shape
    top = cell.row * _CELL + (_CELL - height) // 2
    left = min(max(cell.column * _CELL + (_CELL - width) // 2, 0), SIDE - width)
    image[top : top + height, left : left + width] = np.where(plate[..., None], 20, 255)
