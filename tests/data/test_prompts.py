"""The prompts, byte for byte."""

from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.prompt_format import IMAGE_TAG
from owl2_jax.data.prompts import PROMPTS, get_prompt

LETTER = b"Answer with the option\xe2\x80\x99s letter from the given choices directly."


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        (
            "vqa",
            {"question": "What is it?"},
            b"USER: <|image|>What is it? Answer the question using a single word or phrase. ASSISTANT: ",
        ),
        (
            "caption",
            {},
            b"USER: <|image|>Provide a one-sentence caption for the provided image. ASSISTANT: ",
        ),
        (
            "mme",
            {"question": "Is it a cat? Please answer yes or no."},
            b"USER: <|image|>Is it a cat? \nAnswer the question using a single word or phrase. ASSISTANT: ",
        ),
        (
            "choice_hint",
            {"hint": "N/A", "question": "What?", "options": "A. cat\nB. dog"},
            b"USER: <|image|>N/A\nWhat?\nA. cat\nB. dog\n" + LETTER + b" ASSISTANT: ",
        ),
        (
            "mmmu_choice",
            {"question": "See <|image|>.", "options": "A. cat"},
            b"USER: See <|image|>.\nA. cat\n" + LETTER + b" ASSISTANT: ",
        ),
        (
            "mmmu_open",
            {"question": "See <|image|>."},
            b"USER: See <|image|>.\nAnswer the question using a single word or phrase. ASSISTANT: ",
        ),
        ("question", {"question": "Why?"}, b"USER: <|image|>Why? ASSISTANT: "),
        ("as_asked", {"question": "<|image|>Why?"}, b"<|image|>Why?"),
        ("arc", {"question": "Why?", "options": "A. x"}, b"Question: Why?\nA. x\nAnswer:"),
    ],
)
def test_prompts_are_the_published_bytes(name, fields, expected):
    assert get_prompt(name).text(**fields).encode() == expected


def test_message_is_the_turn_without_roles():
    assert get_prompt("question").message(question="Why?") == f"{IMAGE_TAG}Why?"


def test_hash_changes_with_one_space_and_is_unique():
    hashes = [prompt.hash for prompt in PROMPTS.values()]
    assert len(set(hashes)) == len(hashes)
    vqa = PROMPTS["vqa"]
    assert type(vqa)("vqa", vqa.body, ending=" ASSISTANT:").hash != vqa.hash


def test_braces_in_a_question_are_text():
    assert "{x}" in get_prompt("vqa").text(question="What is {x}?")


def test_wrong_fields_and_unknown_names_are_refused():
    with pytest.raises(Owl2Error, match="takes the fields question; got hint"):
        get_prompt("vqa").text(hint="a")
    with pytest.raises(Owl2Error, match="choice_hint"):
        get_prompt("choice_hints")
