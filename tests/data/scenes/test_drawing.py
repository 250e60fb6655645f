"""Scenes as images."""

from __future__ import annotations

import hashlib
import io
from random import Random

import numpy as np
import pytest
from PIL import Image

from owl2_jax.data.scenes.drawing import SIDE, draw, png
from owl2_jax.data.scenes.questions import Wanted, asked
from owl2_jax.data.scenes.scene import LEVELS, Cell, Scene, Sign, Thing, arranged
from owl2_jax.data.scenes.vocabulary import ALL_PAIRS, SHAPES, WORDS, Pair


def alone(shape: str, large: bool = True, look: int = 0) -> Scene:
    return Scene((Thing(Pair("red", shape), Cell(1, 1), large),), level=LEVELS[1], look=look)


def drawn(scene: Scene) -> np.ndarray:
    """Where the red thing is, bool[96, 96]."""
    return (draw(scene) == (215, 40, 40)).all(axis=-1)


def test_shapes_are_told_apart_at_the_smallest_size_of_the_hardest_level():
    looks = [drawn(alone(shape, large=False)).astype(int) for shape in SHAPES]
    for i, one in enumerate(looks):
        assert all(np.abs(one - other).sum() >= 15 for other in looks[i + 1 :])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_thing_lies_in_its_cell_and_moves_in_it(shape):
    masks = [drawn(alone(shape, large=False, look=look)) for look in range(5)]
    for mask in masks:
        assert mask.sum() == mask[32:64, 32:64].sum() > 20
    assert len({mask.tobytes() for mask in masks}) > 1


@pytest.mark.parametrize("level", LEVELS.values())
def test_large_things_are_larger_than_small_ones(level):
    sizes = [
        (draw(Scene((Thing(Pair("red", "circle"), Cell(1, 1), large),), level=level)) == (215, 40, 40))
        .all(-1)
        .sum()
        for large in (False, True)
    ]
    assert sizes[1] > 1.4 * sizes[0] > 0


@pytest.mark.parametrize("letters", WORDS)
def test_words_are_told_apart_and_stay_inside_the_image(letters):
    words = [word for both in WORDS[letters] for word in both]
    for cell in (Cell(0, 0), Cell(2, 2)):
        images = [draw(Scene((), (Sign(word, cell),), LEVELS[letters - 2])) for word in words]
        assert len({image.tobytes() for image in images}) == len(words)
        assert {(image == 20).all(-1).sum() > 4 * 5 * letters for image in images} == {True}


def test_a_file_holds_the_image():
    scene = arranged(Random(3), LEVELS[3], ALL_PAIRS[:5], word="bird")
    image = np.asarray(Image.open(io.BytesIO(png(scene))))
    assert image.shape == (SIDE, SIDE, 3)
    np.testing.assert_array_equal(image, draw(scene))


def test_scenes_stay_what_they_are_from_version_to_version():
    """Scores and training runs refer to them by their seeds."""
    found = hashlib.sha256()
    for level in LEVELS.values():
        for kind in ("count", "relation", "size", "odd", "word", "home", "caption"):
            one = asked(kind, Wanted(level, "images", "train"), "0")
            found.update(
                f"{one.question} {one.answer} {one.scene.words()}".encode() + draw(one.scene).tobytes()
            )
    assert found.hexdigest()[:16] == "d06f7ee414d9faaa"
