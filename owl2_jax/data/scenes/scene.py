"""What a scene is: things in the cells of a grid and perhaps a sign, and the same in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple

from owl2_jax.data.scenes.vocabulary import Pair

GRID: Final = 3  # cells along a side
_ROWS: Final = ("top", "", "bottom")
_COLUMNS: Final = ("left", "", "right")


class Cell(NamedTuple):
    """Where something stands, both from 0, from the top left."""

    row: int
    column: int

    def __str__(self) -> str:
        return f"{_ROWS[self.row]} {_COLUMNS[self.column]}".strip() or "middle"


CELLS: Final = tuple(Cell(row, column) for row in range(GRID) for column in range(GRID))


@dataclass(frozen=True)
class Level:
    """How hard scenes are.

    Attributes:
      things: fewest and most of them.
      most_counted: highest answer to "how many".
      small, large: radius of a thing in 96ths of the image's side.
      letters: of a word on a sign.
      noise: standard deviation of the background, in levels of grey.
      mixed: the others of an odd one out are alike in one respect alone.
    """

    things: tuple[int, int]
    most_counted: int
    small: float
    large: float
    letters: int
    noise: float
    mixed: bool


LEVELS: Final = {
    1: Level((3, 3), 3, 6.0, 13.0, 3, 0.0, False),
    2: Level((3, 5), 4, 8.0, 13.0, 3, 4.0, False),
    3: Level((5, 8), 6, 10.0, 13.0, 4, 12.0, True),
}


@dataclass(frozen=True)
class Thing:
    """One thing of a scene."""

    pair: Pair
    cell: Cell
    is_large: bool

    def __str__(self) -> str:
        return f"{'large' if self.is_large else 'small'} {self.pair}"


@dataclass(frozen=True)
class Sign:
    """A plate with a word on it."""

    word: str
    cell: Cell

    def __str__(self) -> str:
        return f"sign {self.word}"


@dataclass(frozen=True)
class Scene:
    """Things and signs, each in a cell of its own.

    Attributes:
      look: seeds what no question asks for: where in its cell a thing stands,
        and the background.
    """

    things: tuple[Thing, ...]
    signs: tuple[Sign, ...] = ()
    level: Level = LEVELS[2]
    look: int = 0

    def words(self) -> str:
        """The scene in words, cell by cell: "top left: small red circle; middle: sign cat."."""
        shown = sorted([*self.things, *self.signs], key=lambda one: one.cell)
        return "; ".join(f"{one.cell}: {one}" for one in shown) + "."


def arranged(
    rng: Random, level: Level, pairs: Sequence[Pair], *, large: Sequence[bool] = (), word: str | None = None
) -> Scene:
    """A scene of these pairs, in cells drawn at random, with a sign where there is a word.

    Args:
      large: of each pair; drawn where not given.
    """
    cells = rng.sample(CELLS, len(pairs) + (word is not None))
    sizes = large or [rng.random() < 0.5 for _ in pairs]
    signs = () if word is None else (Sign(word, cells[-1]),)
    things = tuple(Thing(*one) for one in zip(pairs, cells, sizes, strict=False))
    return Scene(things, signs, level, rng.randrange(2**32))
