"""Answers, read from the scenes by another way than they were made."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from owl2_jax.data.scenes.questions import Wanted, asked, kinds_of
from owl2_jax.data.scenes.scene import LEVELS, Scene, Thing
from owl2_jax.data.scenes.vocabulary import COLORS, HELD_OUT_PAIRS, HOMES, PAIRS, SHAPES, WORDS, taught_pairs

SPLITS = ("train", "test", "composed")
ALL = [(level, split) for level in LEVELS for split in SPLITS]


def questions(kind, level=2, split="train", modality="images", count=120):
    wanted = Wanted(LEVELS[level], modality, split)
    return [asked(kind, wanted, str(seed)) for seed in range(count)]


def named(scene: Scene, name: str) -> Thing:
    (found,) = [thing for thing in scene.things if str(thing.pair) == name]
    return found


@pytest.mark.parametrize(("level", "split"), ALL)
def test_count(level, split):
    for scene, question, answer in questions("count", level, split):
        word = re.match(r"How many (\w+) ", question)[1]
        alike = [t for t in scene.things if word in (t.pair.color, t.pair.shape + "s", t.pair.shape + "es")]
        assert int(answer) == len(alike)
        assert (split == "composed") == any(t.pair in HELD_OUT_PAIRS for t in alike)


@pytest.mark.parametrize(("level", "split"), ALL)
def test_relation(level, split):
    for scene, question, answer in questions("relation", level, split):
        landmark, target = re.match(r"On which side of the (\w+ \w+) is the (\w+ \w+)\?", question).groups()
        there, here = named(scene, target), named(scene, landmark)
        down, right = there.cell.row - here.cell.row, there.cell.column - here.cell.column
        assert (down == 0) != (right == 0)
        assert answer == ("below" if down > 0 else "above" if down < 0 else "right" if right > 0 else "left")
        assert (there.pair in HELD_OUT_PAIRS) == (split == "composed")


@pytest.mark.parametrize(("level", "split"), ALL)
def test_size(level, split):
    for scene, question, answer in questions("size", level, split):
        respect, which = re.match(r"What (\w+) is the (\w+) thing\?", question).groups()
        (found,) = [thing for thing in scene.things if thing.is_large == (which == "largest")]
        assert answer == getattr(found.pair, respect)


@pytest.mark.parametrize(("level", "split"), ALL)
def test_the_odd_one_alone_has_a_colour_or_a_shape_that_no_other_has(level, split):
    for scene, _, answer in questions("odd", level, split):
        single = []
        for respect in ("color", "shape"):
            counts = Counter(getattr(thing.pair, respect) for thing in scene.things)
            single += [t for t in scene.things if counts[getattr(t.pair, respect)] == 1]
        assert [str(thing.pair) for thing in single] == [answer]


def test_in_hard_scenes_the_others_are_not_all_alike():
    found = [len({thing.pair for thing in one.scene.things}) for one in questions("odd", 3)]
    assert min(found) == 3


@pytest.mark.parametrize(("level", "split"), ALL)
def test_word(level, split):
    for scene, _, answer in questions("word", level, split):
        assert [sign.word for sign in scene.signs] == [answer]
        assert answer in WORDS[LEVELS[level].letters][split == "composed"]


@pytest.mark.parametrize("modality", ["images", "text"])
def test_homes_are_asked_in_the_modality_that_taught_them_or_for_transfer_in_the_other(modality):
    other = "text" if modality == "images" else "images"
    for split, taught in (("train", modality), ("test", modality), ("transfer", other)):
        for scene, question, answer in questions("home", split=split, modality=modality):
            pair = scene.things[0].pair if scene else next(p for p in PAIRS if str(p) in question)
            assert pair in taught_pairs(taught)
            assert answer == HOMES[pair]


def test_transfer_asks_texts_in_a_wording_that_training_has():
    asked = {split: questions("home", modality="text", split=split) for split in ("train", "transfer")}
    worded = {
        split: {re.sub(r"the \w+ \w+", "it", one.question) for one in found} for split, found in asked.items()
    }
    assert worded["transfer"] <= worded["train"]


def test_texts_ask_for_homes_in_a_wording_that_training_does_not_have():
    trained = {re.sub(r"the \w+ \w+", "it", one.question) for one in questions("home", modality="text")}
    scored = {
        re.sub(r"the \w+ \w+", "it", one.question) for one in questions("home", modality="text", split="test")
    }
    assert len(scored) == 1
    assert not trained & scored


@pytest.mark.parametrize("level", LEVELS)
def test_training_shows_no_held_out_pair_and_no_held_out_word(level):
    for kind in (*kinds_of("images", "train"), "caption"):
        for scene, _, _ in questions(kind, level, count=60):
            assert not any(thing.pair in HELD_OUT_PAIRS for thing in scene.things)
            assert all(sign.word in WORDS[LEVELS[level].letters][0] for sign in scene.signs)


def test_captions_are_the_scene_in_words_and_have_no_sign():
    shown, told = questions("caption", count=20), questions("caption", modality="text", count=20)
    assert all(one.answer == one.scene.words() and not one.scene.signs for one in shown)
    assert {one.scene for one in told} == {None}


@pytest.mark.parametrize(
    ("kind", "answers"),
    [("count", "01234"), ("relation", ("left", "right", "above", "below")), ("size", (*SHAPES, *COLORS))],
)
def test_no_answer_is_much_more_common_than_the_others(kind, answers):
    counts = Counter(one.answer for one in questions(kind, count=1200))
    assert set(counts) == set(answers)
    assert max(counts.values()) < 1.5 * 1200 / len(answers)


def test_kinds_of_every_split():
    assert kinds_of("images", "train") == ("count", "relation", "size", "odd", "word", "home")
    assert kinds_of("text", "test") == ("count", "relation", "size", "odd", "home")
    assert kinds_of("images", "composed") == ("count", "relation", "size", "odd", "word")
    assert kinds_of("text", "transfer") == ("home",)
