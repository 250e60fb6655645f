from __future__ import annotations

import pickle

import pytest

from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.data.sources.base import RecordError, Source, Style, checked_index
from owl2_jax.data.sources.registry import SOURCES, make_source


def test_record_error_names_source_record_and_reason():
    error = RecordError("train.json", 7, "missing", "no image a.jpg")
    assert str(error) == "train.json[7]: missing: no image a.jpg"
    assert isinstance(error, Owl2Error)


def test_record_error_survives_the_way_from_a_worker_process():
    error = pickle.loads(pickle.dumps(RecordError("a", 1, "wrong_tag", "b")))
    assert (error.source, error.index, error.reason, error.detail) == ("a", 1, "wrong_tag", "b")


def test_index_is_checked_from_both_ends():
    assert [checked_index(i, 3, "s") for i in (0, 2, -1, -3)] == [0, 2, 2, 0]
    for index in (3, -4):
        with pytest.raises(IndexError, match="3 records"):
            checked_index(index, 3, "s")


def test_prompt_is_filled_even_when_the_question_has_braces():
    example = Style("d", "Q: {question} A:").example("1", "what is {x}?", "y", [b"p", b"q"])
    assert example["messages"] == [
        {"role": "user", "content": "<|image|><|image|>Q: what is {x}? A:"},
        {"role": "assistant", "content": "y"},
    ]


def test_prompt_may_be_a_published_one_by_name():
    example = Style("d", "vqa").example("1", "What color?", "red", [b"p"])
    # What stands between the opening and the ending of the prompt that evaluation asks with.
    assert f"USER: {example['messages'][0]['content']} ASSISTANT: " == PROMPTS["vqa"].text(
        question="What color?"
    )
    caption = Style("d", "caption", "<image>").example("1", "", "A dog.", [b"p"])
    assert caption["messages"][0]["content"] == (
        "<image>Provide a one-sentence caption for the provided image."
    )
    with pytest.raises(Owl2Error, match="'choice' has the fields question, options"):
        Style("d", "choice")


def test_example_without_answer_ends_with_the_question():
    example = Style("d").example("1", "why?", None)
    assert [message["role"] for message in example["messages"]] == ["user"]
    assert "answer" not in example


def test_style_refuses_unknown_tags():
    with pytest.raises(UnknownNameError, match="image tag"):
        Style("d", image_tag="<img>")


def test_every_kind_of_the_registry_is_a_source():
    for kind, source in SOURCES.items():
        assert all(hasattr(source, name) for name in ("__len__", "__getitem__", "description")), kind
    assert isinstance(make_source("embedded", dataset="facts", split="test"), Source)


def test_settings_are_checked_before_a_file_is_touched():
    with pytest.raises(UnknownNameError, match="image_folder"):
        make_source("llava", path="a.json", image_foldr="b")
    with pytest.raises(Owl2Error, match="source 'llava': required path not given"):
        make_source("llava")
