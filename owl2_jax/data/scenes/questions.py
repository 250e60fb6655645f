"""What is asked about scenes: for each kind of question a scene that has an answer.

Answers are drawn before scenes, so that guessing is as hard as it can be.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, Literal, NamedTuple

from owl2_jax.data.scenes.scene import CELLS, GRID, Cell, Level, Scene, Thing, arranged
from owl2_jax.data.scenes.vocabulary import (
    COLORS,
    HELD_OUT_PAIRS,
    HOMES,
    PAIRS,
    SHAPES,
    WORDS,
    Pair,
    taught_pairs,
)

Modality = Literal["images", "text"]
Split = Literal["train", "test", "composed", "transfer"]
_SIDES: Final = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}
_HOME_OF_IMAGES: Final = "Where does this live?"
_HOME_TAUGHT: Final = (
    "Where does the {} live?",
    "What is the home of the {}?",
    "Name the place where one finds the {}.",
)
_HOME_ASKED: Final = "In which place does the {} live?"


class Asked(NamedTuple):
    """A question about a scene; `scene` is None where the words alone are all there is."""

    scene: Scene | None
    question: str
    answer: str


class Wanted(NamedTuple):
    """What a question is drawn for."""

    level: Level
    modality: Modality
    split: Split

    @property
    def composed(self) -> bool:
        """Whether it asks for what training never showed, made of parts that it did."""
        return self.split == "composed"

    def target(self, rng: Random) -> Pair:
        """The pair that is asked for."""
        return rng.choice(HELD_OUT_PAIRS if self.composed else PAIRS)


def _count(rng: Random, wanted: Wanted) -> Asked:
    level, target = wanted.level, wanted.target(rng)
    by_shape = rng.random() < 0.5
    has = lambda pair: pair.shape == target.shape if by_shape else pair.color == target.color
    lowest = 1 if wanted.composed else 0
    count = rng.randint(lowest, level.most_counted)
    total = max(count, rng.randint(*level.things))
    alike, others = [p for p in PAIRS if has(p)], [p for p in PAIRS if not has(p)]
    counted = [target, *(rng.choice(alike) for _ in range(count - 1))][:count]
    scene = arranged(rng, level, [*counted, *(rng.choice(others) for _ in range(total - count))])
    return Asked(scene, how_many(target.shape if by_shape else target.color), str(count))


def how_many(what: str) -> str:
    """The question for the number of things of a shape or colour."""
    if what in COLORS:
        return f"How many {what} things are there?"
    return f"How many {what}{'es' if what.endswith('s') else 's'} are there?"


def on_which_side(landmark: Pair, target: Pair) -> str:
    """The question for the side of `landmark` on which `target` is."""
    return f"On which side of the {landmark} is the {target}?"


def which_is(*, largest: bool, by_shape: bool) -> str:
    """The question for the shape, or colour, of the only large, or small, thing."""
    return f"What {'shape' if by_shape else 'color'} is the {'largest' if largest else 'smallest'} thing?"


def _relation(rng: Random, wanted: Wanted) -> Asked:
    level, target = wanted.level, wanted.target(rng)
    landmark, *others = rng.sample([p for p in PAIRS if p != target], rng.randint(*level.things) - 1)
    side = rng.choice(list(_SIDES))
    here, there = rng.choice([(cell, to) for cell in CELLS for to in _beside(cell, side)])
    free = rng.sample([cell for cell in CELLS if cell not in (here, there)], len(others))
    pairs, cells = [target, landmark, *others], [there, here, *free]
    things = tuple(Thing(pair, cell, rng.random() < 0.5) for pair, cell in zip(pairs, cells, strict=True))
    scene = Scene(things, level=level, look=rng.randrange(2**32))
    return Asked(scene, on_which_side(landmark, target), side)


def _beside(cell: Cell, side: str) -> list[Cell]:
    """The cells of the same row or column that lie on that side."""
    down, right = _SIDES[side]
    steps = [Cell(cell.row + n * down, cell.column + n * right) for n in range(1, GRID)]
    return [one for one in steps if one in CELLS]


def _size(rng: Random, wanted: Wanted) -> Asked:
    level, target = wanted.level, wanted.target(rng)
    by_shape, is_large = rng.random() < 0.5, rng.random() < 0.5
    others = rng.choices([p for p in PAIRS if p != target], k=rng.randint(*level.things) - 1)
    scene = arranged(rng, level, [target, *others], large=[is_large, *(not is_large for _ in others)])
    answer = target.shape if by_shape else target.color
    return Asked(scene, which_is(largest=is_large, by_shape=by_shape), answer)


def _odd(rng: Random, wanted: Wanted) -> Asked:
    level, target = wanted.level, wanted.target(rng)
    count = max(rng.randint(*level.things) - 1, 4 if level.mixed else 2)
    by_shape = rng.random() < 0.5  # the shape tells it, not the colour
    if by_shape:
        alike = rng.choice([s for s in SHAPES if s != target.shape and Pair(target.color, s) in PAIRS])
        known = [p for p in PAIRS if p.shape == alike]
    else:
        alike = rng.choice([c for c in COLORS if c != target.color and Pair(c, target.shape) in PAIRS])
        known = [p for p in PAIRS if p.color == alike]
    same = Pair(target.color, alike) if by_shape else Pair(alike, target.shape)
    if level.mixed:  # in the other respect each of them has a double, the odd one too
        second = rng.choice([p for p in known if p != same])
        pairs = [(same, second)[i % 2] for i in range(count)]
    else:
        pairs = [same] * count
    scene = arranged(rng, level, [target, *pairs])
    return Asked(scene, "Which thing is the odd one out?", str(target))


def _word(rng: Random, wanted: Wanted) -> Asked:
    shown, held_out = WORDS[wanted.level.letters]
    word = rng.choice(held_out if wanted.composed else shown)
    pairs = rng.choices(PAIRS, k=rng.randint(*wanted.level.things) - 1)
    return Asked(arranged(rng, wanted.level, pairs, word=word), "What does the sign say?", word)


def _home(rng: Random, wanted: Wanted) -> Asked:
    """A fact about a pair that its look does not tell; one half is taught by images, the other by texts."""
    shown = wanted.modality
    taught = {"images": "text", "text": "images"}[shown] if wanted.split == "transfer" else shown
    pair = rng.choice(taught_pairs(taught))
    if shown == "images":
        return Asked(arranged(rng, wanted.level, [pair]), _HOME_OF_IMAGES, HOMES[pair])
    # Another wording would be a second thing to carry over; in "test" it is the only thing that is new.
    wording = _HOME_ASKED if wanted.split == "test" else rng.choice(_HOME_TAUGHT)
    return Asked(None, wording.format(pair), HOMES[pair])


def _caption(rng: Random, wanted: Wanted) -> Asked:
    """The scene in words; never with a sign, so that captions teach nobody to read."""
    scene = arranged(rng, wanted.level, rng.choices(PAIRS, k=rng.randint(*wanted.level.things)))
    shown = scene if wanted.modality == "images" else None  # in words, it would only be copied
    return Asked(shown, "Describe the picture.", scene.words())


def _repeat(rng: Random, wanted: Wanted) -> Asked:
    """The scene in words, to be said again in another order.

    In the same order it would be copied by counting words, without knowing what belongs together.
    """
    scene = arranged(rng, wanted.level, rng.choices(PAIRS, k=rng.randint(*wanted.level.things)))
    things = rng.sample(scene.things, len(scene.things))
    if rng.random() < 0.5:
        question, said = "Say it in another order.", [f"{thing.cell}: {thing}" for thing in things]
    else:
        question, said = "Say the places last.", [f"{thing}: {thing.cell}" for thing in things]
    return Asked(scene, question, f"{'; '.join(said)}.")


_DRAWN_BY: Final[dict[str, Callable[[Random, Wanted], Asked]]] = {
    "count": _count,
    "relation": _relation,
    "size": _size,
    "odd": _odd,
    "word": _word,
    "home": _home,
    "caption": _caption,
    "repeat": _repeat,
}
# No questions, and never scored. A caption is what stage 1 learns, and, without the image, the language
# of it; a scene in words to be said again teaches a decoder what belongs together in a text.
_UNSCORED: Final = ("caption", "repeat")


def kinds_of(modality: str, split: str) -> tuple[str, ...]:
    """The kinds of question that a split has.

    A word in a text would only be copied. Pairs that training never shows have
    no home, and homes alone are taught in one modality and asked in the other.
    """
    if split == "transfer":
        return ("home",)
    lacks = {"word"} if modality == "text" else set()
    lacks |= {"home"} if split == "composed" else set()
    return tuple(kind for kind in _DRAWN_BY if kind not in {*_UNSCORED, *lacks})


def untested_kinds(modality: str, split: str) -> tuple[str, ...]:
    """What a split has beside questions: in training captions, and in words something to repeat."""
    if split != "train":
        return ()
    return _UNSCORED if modality == "text" else _UNSCORED[:1]


def asked(kind: str, wanted: Wanted, key: str) -> Asked:
    """The question of a kind that `key` seeds, always the same one."""
    return _DRAWN_BY[kind](Random(f"{key}/{wanted.split}/{wanted.modality}/{kind}"), wanted)
