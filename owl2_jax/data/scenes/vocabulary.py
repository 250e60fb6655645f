"""The words of the scenes: shapes, colours, places, words on signs, and what training never shows."""

from __future__ import annotations

import itertools
import random
from typing import Final, NamedTuple

SHAPES: Final = ("circle", "square", "triangle", "cross", "ring", "diamond")
COLORS: Final = ("red", "green", "blue", "yellow", "purple", "orange")
PLACES: Final = ("wood", "hill", "farm", "lake", "city", "cave", "road", "tent", "ship", "moon")


class Pair(NamedTuple):
    """A colour with a shape, which is all that tells one thing from another but its size."""

    color: str
    shape: str

    def __str__(self) -> str:
        return f"{self.color} {self.shape}"


ALL_PAIRS: Final = tuple(Pair(*both) for both in itertools.product(COLORS, SHAPES))
# Each colour and each shape is in one of them, and in five that training shows.
HELD_OUT_PAIRS: Final = tuple(map(Pair, COLORS, (SHAPES[i] for i in (1, 3, 5, 0, 2, 4))))
PAIRS: Final = tuple(pair for pair in ALL_PAIRS if pair not in HELD_OUT_PAIRS)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# {letters of a word: (words that training shows, words that it does not)}; in both, each letter
# stands in words that are shown.
WORDS: Final = {
    3: (
        _words("cat dog sun map cup hat pen box bus car egg ice key leg arm bag bed cow ear fan fig jam kit "
               "lip mud net oak owl pie pig rat sea tea toy van web"),
        _words("ant bat can cot gum hen jar log nut pan rug tub"),
    ),
    4: (
        _words("ball bird boat book cake coin desk door duck fish frog gate goat hand harp kite lamp leaf "
               "milk moon nest park rain ring road rose sand ship shoe snow star tent tree vase wolf yard"),
        _words("bear bell cave corn deer fork lion nail pond soup wall wind"),
    ),
}  # fmt: skip


def _homes() -> tuple[dict[Pair, str], frozenset[Pair]]:
    """(place of every pair that training shows, the half of the pairs whose place images teach)."""
    order = list(PAIRS)
    random.Random("homes").shuffle(order)
    places = {pair: PLACES[i % len(PLACES)] for i, pair in enumerate(order)}
    # Every place is taught by images and by texts, so that it says nothing about which.
    by_images = frozenset(pair for i, pair in enumerate(order) if (i // len(PLACES) + i) % 2)
    return places, by_images


HOMES, TAUGHT_BY_IMAGES = _homes()


def taught_pairs(modality: str) -> list[Pair]:
    """The pairs whose place is told by "images" or by "text", never by the other."""
    return [pair for pair in PAIRS if (pair in TAUGHT_BY_IMAGES) == (modality == "images")]
