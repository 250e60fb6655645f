from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.data.messages import check_messages
from owl2_jax.data.sources.embedded import EmbeddedSource
from owl2_jax.data.sources.registry import make_source


def test_example_has_the_fields_of_the_contract():
    example = EmbeddedSource("drawn_vqa")[3]
    check_messages(example["messages"], "<|image|>", num_images=len(example["images"]))
    assert example["id"] == "drawn_vqa/train/00003"
    assert example["dataset"] == "drawn_vqa"
    assert example["messages"][1] == {"role": "assistant", "content": example["answer"]}
    assert example["messages"][0]["content"] == "<|image|>" + example["question"]
    assert len(example["image_keys"]) == 1


def test_prompt_and_tag_are_applied():
    source = EmbeddedSource("easy_vqa", prompt="{question} One word.", image_tag="<image>")
    assert source[0]["messages"][0]["content"] == "<image>what is the blue shape? One word."
    assert source[0]["question"] == "what is the blue shape?"


def test_caption_splits_take_a_prompt_without_a_question():
    source = EmbeddedSource("captions", prompt="Describe it.")
    assert source[0]["messages"][0]["content"] == "<|image|>Describe it."
    with pytest.raises(Owl2Error, match="question"):
        EmbeddedSource("facts", prompt="Describe it.")


def test_text_only_examples_have_no_tag_and_no_image():
    example = EmbeddedSource("facts", "test")[0]
    assert example["images"] == []
    assert "<" not in example["messages"][0]["content"]


def test_kinds_select_examples():
    source = EmbeddedSource("easy_vqa", "test", kinds=["shape"])
    assert len(source) == 1257
    assert source.kind_counts() == {"shape": 1257}


def test_equal_keys_mean_equal_images():
    source = EmbeddedSource("easy_vqa")
    assert source[0]["image_keys"] == source[1]["image_keys"]
    assert source[0]["images"][0] is source[1]["images"][0]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"dataset": "easy_vqe"}, "easy_vqa-train"),
        ({"dataset": "captions", "split": "test"}, "captions-train"),
        ({"dataset": "easy_vqa", "kinds": ["colour"]}, "color"),
        ({"dataset": "easy_vqa", "image_tag": "<img>"}, "<image>"),
    ],
)
def test_unknown_names_are_refused_with_near_ones(arguments, hint):
    with pytest.raises(UnknownNameError, match=hint.replace("|", r"\|")):
        EmbeddedSource(**arguments)


def test_unfinished_folder_is_refused(tmp_path):
    with pytest.raises(Owl2Error, match=r"manifest\.json"):
        EmbeddedSource("easy_vqa", folder=tmp_path)


def test_iteration_ends_and_negative_indices_count_from_the_end():
    source = EmbeddedSource("drawn_vqa", "test")
    assert source[-1]["id"] == source[len(source) - 1]["id"]
    assert sum(1 for _ in source) == len(source)


def test_registry_builds_by_kind_and_refuses_unknown_kinds():
    assert make_source("embedded", dataset="facts").dataset == "facts"
    with pytest.raises(UnknownNameError, match="embedded"):
        make_source("embeded", dataset="facts")
