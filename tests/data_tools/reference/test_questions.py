"""Questions and answers as numbers."""

from __future__ import annotations

from owl2_jax.data_tools.reference.questions import UNKNOWN, Codes


def test_a_word_is_another_one_at_another_place():
    codes = Codes(["is the red on blue?", "is the blue on red?"], ["yes", "no"])
    first, second = codes.questions(["Is the red on blue?", "is the blue on red?"])
    assert sorted(first) != sorted(second)
    assert codes.inputs == 5 * 6
    assert max(*first, *second) < codes.inputs


def test_unknown_words_and_missing_places_are_row_zero_of_their_place():
    codes = Codes(["how many", "how many are there"], ["1", "2"])
    assert codes.questions(["how few"])[0].tolist() == [codes.questions(["how"])[0, 0], 5, 10, 15]


def test_answers_that_training_never_had_cannot_be_chosen():
    codes = Codes(["?", "?", "?"], ["cat", "ant", "cat"])
    assert codes.answers == ("ant", "cat")
    assert codes.labels(["cat", "bat"]).tolist() == [1, UNKNOWN]
