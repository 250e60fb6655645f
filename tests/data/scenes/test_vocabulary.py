"""What training shows and what it does not."""

from __future__ import annotations

from collections import Counter

import pytest

from owl2_jax.data.scenes.vocabulary import (
    ALL_PAIRS,
    COLORS,
    HELD_OUT_PAIRS,
    HOMES,
    PAIRS,
    PLACES,
    SHAPES,
    WORDS,
    taught_pairs,
)


def test_every_color_and_every_shape_of_a_held_out_pair_is_shown_with_others():
    assert len(ALL_PAIRS) == 36
    assert sorted(pair.color for pair in HELD_OUT_PAIRS) == sorted(COLORS)
    assert sorted(pair.shape for pair in HELD_OUT_PAIRS) == sorted(SHAPES)
    assert not set(HELD_OUT_PAIRS) & set(PAIRS)
    assert set(Counter(pair.color for pair in PAIRS).values()) == {5}


@pytest.mark.parametrize("letters", WORDS)
def test_held_out_words_are_made_of_letters_that_are_shown_and_are_no_shown_words(letters):
    shown, held_out = WORDS[letters]
    assert len({*shown, *held_out}) == len(shown) + len(held_out) == 48
    assert {len(word) for word in (*shown, *held_out)} == {letters}
    assert set("".join(held_out)) <= set("".join(shown))


def test_homes_are_taught_half_and_half_and_every_place_by_both():
    by_images, by_text = taught_pairs("images"), taught_pairs("text")
    assert (len(by_images), len(by_text)) == (15, 15)
    assert set(by_images) | set(by_text) == set(PAIRS) == set(HOMES)
    assert {HOMES[pair] for pair in by_images} == {HOMES[pair] for pair in by_text} == set(PLACES)
