"""More questions about a scene that is there already, whatever it was drawn for.

One question a scene teaches little: an answer has one or two words, and reading or seeing
the scene costs the same for one as for five.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final, NamedTuple

from owl2_jax.data.scenes.questions import Asked, how_many, on_which_side, which_is
from owl2_jax.data.scenes.scene import CELLS, Cell, Scene, Sign, Thing
from owl2_jax.data.scenes.vocabulary import COLORS, SHAPES

_NOTHING: Final = "nothing"
_TRIES: Final = 8  # draws for each turn, some of which find nothing new to ask


class Turn(NamedTuple):
    """What is asked and answered in a conversation about a scene."""

    question: str
    answer: str


def more_turns(rng: Random, first: Asked, count: int) -> list[Turn]:
    """Up to `count` turns that go on after `first`, no question twice; none where that is without a scene.

    They never ask for the odd one out, what a sign says or a home: a scene has those by design alone.
    """
    found: dict[str, Turn] = {}
    for _ in range(_TRIES * count if first.scene else 0):
        turn = rng.choice(_DRAWN_BY)(rng, first.scene)
        if turn is not None and turn.question != first.question and len(found) < count:
            found[turn.question] = turn
    return list(found.values())


def _count(rng: Random, scene: Scene) -> Turn:
    by_shape = rng.random() < 0.5
    there = [thing.pair.shape if by_shape else thing.pair.color for thing in scene.things]
    asked = rng.choice(SHAPES if by_shape else COLORS) if rng.random() < 0.25 else rng.choice(there)
    return Turn(how_many(asked), str(there.count(asked)))


def _relation(rng: Random, scene: Scene) -> Turn | None:
    single = _single(scene.things)
    both = [(one, other) for one in single for other in single if _side(one.cell, other.cell)]
    if not both:
        return None
    landmark, target = rng.choice(both)
    side = _side(landmark.cell, target.cell)
    return Turn(on_which_side(landmark.pair, target.pair), side)


def _single(things: Sequence[Thing]) -> list[Thing]:
    """Those whose look no other has."""
    pairs = [thing.pair for thing in things]
    return [thing for thing in things if pairs.count(thing.pair) == 1]


def _side(of: Cell, where: Cell) -> str:
    """On which side `where` lies in the row or column of `of`; "" elsewhere."""
    down, right = where.row - of.row, where.column - of.column
    if (down == 0) == (right == 0):
        return ""
    if down:
        return "below" if down > 0 else "above"
    return "right" if right > 0 else "left"


def _size(rng: Random, scene: Scene) -> Turn | None:
    of_size = {is_large: [t for t in scene.things if t.is_large == is_large] for is_large in (True, False)}
    single = [(found[0], is_large) for is_large, found in of_size.items() if len(found) == 1]
    if not single:
        return None
    thing, is_large = rng.choice(single)
    by_shape, answer = rng.choice([(True, thing.pair.shape), (False, thing.pair.color)])
    return Turn(which_is(largest=is_large, by_shape=by_shape), answer)


def _place(rng: Random, scene: Scene) -> Turn | None:
    single = _single(scene.things)
    if not single:
        return None
    thing = rng.choice(single)
    return Turn(f"Where is the {thing.pair}?", str(thing.cell))


def _content(rng: Random, scene: Scene) -> Turn:
    shown: dict[Cell, Thing | Sign] = {one.cell: one for one in (*scene.things, *scene.signs)}
    cell = rng.choice(CELLS) if rng.random() < 0.25 else rng.choice(list(shown))
    there = shown.get(cell)
    answer = "sign" if isinstance(there, Sign) else _NOTHING if there is None else str(there)
    return Turn(f"What is at {cell}?", answer)


_DRAWN_BY: Final[Sequence[Callable[[Random, Scene], Turn | None]]] = (
    _count,
    _relation,
    _size,
    _place,
    _content,
)
