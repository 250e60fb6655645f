"""More questions about a scene, each answered from the scene by another way than the code's."""

from __future__ import annotations

import re
from random import Random

import pytest

from owl2_jax.data.scenes.questions import Wanted, asked, kinds_of
from owl2_jax.data.scenes.scene import LEVELS, Scene
from owl2_jax.data.scenes.turns import Turn, more_turns

_PLACES = {
    "top left": (0, 0), "top": (0, 1), "top right": (0, 2),
    "left": (1, 0), "middle": (1, 1), "right": (1, 2),
    "bottom left": (2, 0), "bottom": (2, 1), "bottom right": (2, 2),
}  # fmt: skip


def conversations(level: int) -> list[tuple[Scene, list[Turn]]]:
    wanted = Wanted(LEVELS[level], "images", "train")
    firsts = [asked(kind, wanted, str(i)) for kind in kinds_of("images", "train") for i in range(40)]
    return [(first.scene, more_turns(Random(str(i)), first, 4)) for i, first in enumerate(firsts)]


def answered(scene: Scene, question: str) -> str:
    """The answer, from the scene in words."""
    parts = [part.split(": ") for part in scene.words().rstrip(".").split("; ")]
    shown = dict(parts)
    things = {place: thing.split() for place, thing in shown.items() if not thing.startswith("sign")}
    where = lambda name: [place for place, (_, *pair) in things.items() if " ".join(pair) == name]
    if found := re.fullmatch(r"What is at ([a-z ]+)\?", question):
        thing = shown.get(found[1], "nothing")
        return "sign" if thing.startswith("sign") else thing
    if found := re.fullmatch(r"Where is the (\w+ \w+)\?", question):
        (place,) = where(found[1])
        return place
    if found := re.fullmatch(r"On which side of the (\w+ \w+) is the (\w+ \w+)\?", question):
        (landmark,), (target,) = where(found[1]), where(found[2])
        down, right = (there - here for here, there in zip(_PLACES[landmark], _PLACES[target], strict=True))
        assert (down == 0) != (right == 0)
        return {(0, 1): "right", (0, -1): "left", (1, 0): "below", (-1, 0): "above"}[
            ((down > 0) - (down < 0), (right > 0) - (right < 0))
        ]
    if found := re.fullmatch(r"What (shape|color) is the (largest|smallest) thing\?", question):
        size = "large" if found[2] == "largest" else "small"
        (thing,) = [thing for thing in things.values() if thing[0] == size]
        return thing[1 if found[1] == "color" else 2]
    (many,) = re.fullmatch(r"How many (\w+)(?: things)? are there\?", question).groups()
    named = lambda word: many in (word, f"{word}s", f"{word}es")
    return str(sum(any(map(named, thing[1:])) for thing in things.values()))


@pytest.mark.parametrize("level", LEVELS)
def test_every_answer_is_what_the_scene_in_words_says(level):
    turns = [(scene, turn) for scene, found in conversations(level) for turn in found]
    wrong = [(scene.words(), turn) for scene, turn in turns if answered(scene, turn.question) != turn.answer]
    assert not wrong
    assert len(turns) > 600
    assert {turn.question.split()[0] for _, turn in turns} == {"How", "What", "Where", "On"}


def test_no_conversation_asks_the_same_twice_and_a_seed_gives_the_same_one():
    first = asked("count", Wanted(LEVELS[1], "images", "train"), "0")
    for seed in range(200):
        asked_for = [first.question, *(turn.question for turn in more_turns(Random(seed), first, 4))]
        assert len(set(asked_for)) == len(asked_for) == 5
    assert conversations(1) == conversations(1)


def test_a_question_without_a_scene_has_none():
    home = asked("home", Wanted(LEVELS[1], "text", "train"), "0")
    assert more_turns(Random(0), home, 4) == []


def test_some_are_asked_for_what_is_not_there():
    answers = [turn.answer for _, found in conversations(2) for turn in found]
    assert {"nothing", "sign", "0"} <= set(answers)
    assert 0.02 < answers.count("nothing") / len(answers) < 0.1
