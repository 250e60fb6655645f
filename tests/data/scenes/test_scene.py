"""What a scene is, and how it is told in words."""

from __future__ import annotations

from random import Random

import pytest

from owl2_jax.data.scenes.scene import CELLS, LEVELS, Cell, Scene, Sign, Thing, arranged
from owl2_jax.data.scenes.vocabulary import PAIRS, Pair


def test_words_go_from_the_top_left_cell_to_the_bottom_right_one():
    red, blue = Pair("red", "circle"), Pair("blue", "cross")
    scene = Scene((Thing(blue, Cell(2, 2), True), Thing(red, Cell(0, 1), False)), (Sign("cat", Cell(1, 1)),))
    assert scene.words() == "top: small red circle; middle: sign cat; bottom right: large blue cross."


def test_cells_have_different_names():
    assert len({str(cell) for cell in CELLS}) == len(CELLS) == 9


@pytest.mark.parametrize("level", LEVELS.values())
def test_nothing_stands_in_the_cell_of_another(level):
    for seed in range(50):
        scene = arranged(Random(seed), level, PAIRS[: level.things[1]], word="cat")
        cells = [one.cell for one in (*scene.things, *scene.signs)]
        assert len(set(cells)) == len(cells) == level.things[1] + 1


def test_sizes_are_those_that_were_asked_for():
    scene = arranged(Random(0), LEVELS[1], PAIRS[:3], large=[True, False, False])
    assert [thing.is_large for thing in scene.things] == [True, False, False]
