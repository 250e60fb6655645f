"""Reading options out of answers."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from owl2_jax.evals.metrics.choice import LETTERS, letter_index, option_lines, parse_choice
from owl2_jax.evals.metrics.open_answers import candidates, open_answer_matches

HANDED = json.loads(
    (Path(__file__).parents[2] / "data" / "cases" / "evaluate" / "choice_letters.json").read_text()
)
COLOURS = ["red", "green", "blue", "dark red"]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("B", 1),
        ("b", 1),
        ("(b)", 1),
        (" B.", 1),
        ("B. green", 1),
        ("B: it is red", 1),
        ("(C)", 2),
        ("(C) blue", 2),
        ("The answer is C", 2),
        ("The correct option: D.", 3),
        ("Answer: A", 0),
        ("I first thought (A), but (C)", 2),
        ("It must be C.", 2),
        ("green", 1),
        ("The car is green.", 1),
        ("Red", 0),
        ("A dark red car", None),
        ("A green car", 1),
        ("E", None),
        ("", None),
        ("redish", None),
        ("none of these", None),
        ("red or blue", None),
    ],
)
def test_choices(text, index):
    assert parse_choice(text, COLOURS) == index


def letter(text, options=HANDED["options"], letters=LETTERS):
    index = parse_choice(text, options, letters)
    return None if index is None else letters[index]


@pytest.mark.parametrize("case", HANDED["cases"], ids=lambda case: repr(case["text"]))
def test_the_handed_answers_give_an_accepted_letter(case):
    assert letter(case["text"]) in case["accept"]


# Options: A red, B blue, C green, D black.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Marks, markup, scripts.
        ("Option (B)", "B"),
        ('"B)"', "B"),
        ("the answer is: **B**", "B"),
        ("Answer - b", "B"),
        ("## Answer\n\n**B**", "B"),
        ('{"answer": "B"}', "B"),
        (r"\text{B}", "B"),
        (r"$\mathbf{B}$", "B"),
        (r"$B$", "B"),
        (r"\boxed{\textbf{(B)}}", "B"),
        (r"\boxed{B. blue}", "B"),
        (r"\boxed{blue}", "B"),
        (r"A looks odd. $$\boxed{C}$$", "C"),
        ("<answer>\nB\n</answer>", "B"),
        ("<think>A? No: C is wrong too.</think>\nB", "B"),
        ("<b>B</b>", "B"),
        ("<B>", "B"),
        ("B<|endoftext|>", "B"),
        ("\u24b7", "B"),
        ("\uff08\uff23\uff09\u7eff\u8272", "C"),
        ("\u7b54\u6848\u662fB", "B"),
        ("\u6b63\u786e\u7b54\u6848\u4e3a\uff22\u3002", "B"),
        ("B\u662f\u6b63\u786e\u7684", "B"),
        ("\u6545\u9009 D\u3002", "D"),
        ("\u300cB\u300d", "B"),
        ("\u3010B\u3011", "B"),
        ("\u2018B\u2019", "B"),
        ("\u200bB", "B"),
        # A letter and its own text.
        ("B.blue", "B"),
        ("B-blue", "B"),
        ("B \u2013 blue", "B"),
        ("a. red", "A"),
        ("B) blue\n\nA) red is wrong because", "B"),
        # Several letters are none.
        ("neither A nor B", None),
        ("The answer is A or B", None),
        ("The answer is A and B", None),
        ("Both A and B are correct", None),
        ("A, B", None),
        ("A/B", None),
        ("B;C", None),
        ("A red and B blue", None),
        ("A. red, B. blue, C. green, D. black", None),
        ("Option A shows a cat, option B shows a dog.", None),
        # Ruled out.
        ("Not A", None),
        ("B is incorrect", None),
        ("The answer isn't A", None),
        ("A is wrong, so it is B", "B"),
        ("A is incorrect. B is correct.", "B"),
        ("A and B are wrong, so C", "C"),
        ("B, C and D are wrong", None),
        ("option A is wrong, option C is right", "C"),
        ("It can't be A, it must be B", "B"),
        ("The answer is B. The answer is not A.", "B"),
        ("It is not red but blue", "B"),
        ("blue, not red", "B"),
        # Announced.
        ("Between A and B, I choose B", "B"),
        ("A or B? I would say B", "B"),
        ("The correct answer to question A is B", "B"),
        ("My answer is choice C: green", "C"),
        ("Ans. (b)", "B"),
        ("the answer is a.", "A"),
        ("The answer is a blue car", "B"),
        ("The options are red, blue, green and black. The answer is blue.", "B"),
        ("(A) red (B) blue (C) green (D) black\nB", "B"),
        ("Options: A. red; B. blue; C. green; or D. black. I pick C.", "C"),
        # Words, not letters.
        ("A dog is running", None),
        ("A Golden Retriever", None),
        ("I think so", None),
        ("X-ray", None),
        ("D.C. is a city", None),
        ("The time is 3 A.M.", None),
        # Numbers are no letters, and a letter that is not offered is none of the others.
        ("2", None),
        ("(2)", None),
        ("Option 2", None),
        ("The answer is E, because A is wrong", None),
        ("The answer is none of the above", None),
    ],
)
def test_the_letter_that_an_answer_means(text, expected):
    assert letter(text) == expected


@pytest.mark.parametrize(
    ("options", "text", "index"),
    [
        (["A and B", "A", "B", "neither A nor B"], "A and B", 0),
        (["A and B", "A", "B", "neither A nor B"], "neither A nor B", 3),
        (["1", "2", "3", "4"], "2", 1),
        (["vitamin C", "vitamin D", "zinc"], "The answer is vitamin D", 1),
        (["A dog", "a cat"], "A cat.", 1),
        (["nan", "blue"], "nan", 0),
        (["yes", "no"], "No.", 1),
        (["$6", "$7", "7"], "$7", 1),
        (["$6", "$7", "7"], "7", 2),
        (["-1", "1"], "-1", 0),
        (["5", "5!"], "5!", 1),
        (["+", "-"], "-", 1),
        (["x^2", "x^3"], "$x^3$", 1),
        (["E", "F"], "E", 0),
        (["B", "A"], "B", 1),
    ],
)
def test_an_answer_in_the_words_of_an_option(options, text, index):
    assert parse_choice(text, options) == index


NUMBERS = ["5", "10", "20", "7"]
LENGTHS = ["2 m", "5 m", "7 m"]
SOURCES = ["renewable", "fossil", "nuclear"]


@pytest.mark.parametrize(
    ("options", "text", "index"),
    [
        (NUMBERS, "-5", None),
        (NUMBERS, "The answer is -5.", None),
        (NUMBERS, "The answer is minus 5.", None),
        (NUMBERS, "\u22125", None),
        (["-5", "5"], "\u22125", 0),
        (["-5", "5"], "It is -5", 0),
        (NUMBERS, "0.5", None),
        (NUMBERS, ".5", None),
        (NUMBERS, "about .5 of it", None),
        ([".5", "5"], ".5", 0),
        ([".5", "5"], "5.", 1),
        (NUMBERS, "...5", 0),
        (NUMBERS, "It is 1/5 of it", None),
        (NUMBERS, "5 / 6", None),
        (NUMBERS, "It is 5-8", None),
        (NUMBERS, "At 3:10 pm", None),
        (NUMBERS, "10^3", None),
        (NUMBERS, "more than 20+", None),
        (NUMBERS, "It is 5.", 0),
        (NUMBERS, "It is 5, not 10", 0),
        (NUMBERS, "Answer:5", 0),
        (NUMBERS, "A 5-year-old", 0),
        (NUMBERS, "(5)", 0),
        (NUMBERS, "5 million", None),
        (NUMBERS, "It has 5 million people", None),
        (NUMBERS, "about 10 thousand", None),
        (NUMBERS, "The 5-million city", None),
        (NUMBERS, "5 \u00d7 10", None),
        (NUMBERS, "It is 5 people", 0),
        (["5", "5 million"], "It has 5 million people", 1),
        (["5", "5 million"], "It is 5", 0),
        (["5 million", "5 billion"], "5 billion.", 1),
        (["two", "three"], "It is two hundred", None),
        (["two", "five"], "twenty five", None),
        (["two", "five"], "It is twenty-five", None),
        (["two", "five"], "It is two", 0),
        (["two", "million"], "5 million", None),
        (["million", "billion"], "It is a million", 0),
        (["15", "20", "25", "30"], "It costs 15.75 dollars", None),
        (["15", "20", "25", "30"], "It costs $15 now", 0),
        (["500", "1000"], "1,500", None),
        (["500", "1"], "It is 1,500 in all", None),
        (LENGTHS, "It is 2.5 m", None),
        (LENGTHS, "It is 5 m", 1),
        (LENGTHS, "It moves at 5 m/s", None),
        (LENGTHS, "It is 5 m^2", None),
        (SOURCES, "It is non-renewable", None),
        (SOURCES, "It is non\u2011renewable", None),
        (SOURCES, "It is non renewable", None),
        (SOURCES, "It is no fossil", None),
        (SOURCES, "a nuclear-free one", None),
        (SOURCES, "It is renewable - of course", 0),
        (["non-renewable", *SOURCES], "It is non-renewable", 0),
    ],
)
def test_an_option_is_no_part_of_another_number_or_word(options, text, index):
    assert parse_choice(text, options) == index


@pytest.mark.parametrize(
    ("text", "expected"),
    [("I", "I"), ("I.", "I"), ("(I)", "I"), ("The answer is I", "I"), ("I think so", None), ("J", "J"),
     ("I believe the answer is H", "H"), ("I, like many, say it is C", "C")],
)  # fmt: skip
def test_i_is_a_pronoun_unless_it_stands_as_a_letter(text, expected):
    assert letter(text, [f"option {word}" for word in "qrstuvwxyz"]) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A\nB\nC\nD", None),
        ("A)\nB)", None),
        ("The answer is:\nA\nC", None),
        ("B\nB", "B"),
        ("B\nA red bus", "B"),
        ("A\n\nB is wrong", "A"),
        ("D\n\nExplanation: A, B and C are wrong.", "D"),
        ("Neither A nor B; C", "C"),
        ("Not A or B; it is C", "C"),
        ("A; B", None),
        ("A is not correct, B is", "B"),
        ("A isn't right; B is.", "B"),
        ("A is wrong, B is not correct, C is.", "C"),
        ("A is wrong, and B is too.", None),
    ],
)
def test_lines_of_letters_and_contrasts(text, expected):
    assert letter(text) == expected


def test_eleven_options_have_eleven_letters():
    options = [f"o{number}" for number in range(11)]
    assert [letter(text, options) for text in ("K", "o10", "K. o10", "The answer is K", "o1")] == [*"KKKKB"]


def test_options_with_a_gap_keep_their_letters():
    options = ["red", "blue", "black"]
    assert option_lines(options, "ABD") == "A. red\nB. blue\nD. black"
    for text, index in {"D": 2, "black": 2, "The answer is D": 2, "C": None, "The answer is C": None}.items():
        assert parse_choice(text, options, "ABD") == index, text


@pytest.mark.parametrize("given", ["", "AB", "E", None, 1, float("nan"), ["A"]])
def test_a_published_answer_is_one_of_the_letters(given):
    with pytest.raises(ValueError, match="expected one of A, B, C, D"):
        letter_index(given, "ABCD")
    assert letter_index(" d ", "ABCD") == 3


@pytest.mark.parametrize(
    "text", ["A " * 4000, "not red " * 4000, "$" * 5000, "<a " * 5000, "<think>" * 3000, "A, B; " * 2000,
             " " * 20_000 + "B", "*" * 20_000]
)  # fmt: skip
def test_long_answers_are_read_in_time(text):
    start = time.process_time()
    letter(text)
    assert time.process_time() - start < 10


def test_letters_beyond_the_options_do_not_count():
    assert parse_choice("C", ["yes", "no"]) is None
    assert parse_choice("C", ["yes", "no", "maybe"]) == 2


def test_option_lines():
    assert option_lines(["cat", "dog"]) == "A. cat\nB. dog"


@pytest.mark.parametrize(
    ("text", "answers", "right"),
    [
        ("42", "42", True),
        ("The answer is 1,000.", "1000", True),
        ("x = 3.141", "3.14", True),
        ("so it is 7, therefore 8", "7", False),
        ("It is a mitochondrion", ["mitochondrion", "mitochondria"], True),
        ("probably y", "x", False),
        ("6.02e23 molecules", "6.02e23", True),
        ("-5", "5", False),
    ],
)
def test_open_answers(text, answers, right):
    assert open_answer_matches(text, answers) is right


def test_candidates_keep_text_and_numbers():
    assert candidates("The result is 12 cm") == {"12 cm", 12.0}
