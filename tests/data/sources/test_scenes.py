"""The source of scenes."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.data.messages import check_messages
from owl2_jax.data.sources.registry import make_source
from owl2_jax.data.sources.scenes import ScenesSource


def test_an_image_comes_with_its_question():
    example = ScenesSource(prompt="{question} One word.")[1]
    check_messages(example["messages"], "<|image|>", num_images=1)
    assert example["id"] == "scenes/train/images/relation/00001"
    assert example["messages"][0]["content"].startswith("<|image|>On which side of the ")
    assert example["messages"][0]["content"].endswith("? One word.")
    assert Image.open(io.BytesIO(example["images"][0])).size == (96, 96)


def test_in_words_the_scene_stands_in_front_of_the_question():
    example = ScenesSource(modality="text")[0]
    scene, question = example["messages"][0]["content"].split(". ")
    assert all(": " in part for part in scene.split("; "))
    assert question.startswith("How many ")
    assert example["images"] == []


def test_a_record_depends_on_seed_difficulty_and_index_alone():
    shorter, longer = ScenesSource(examples=6), ScenesSource(examples=600)
    assert [shorter[i] for i in range(6)] == [longer[i] for i in range(6)]
    others = [ScenesSource(seed=1)[0], ScenesSource(difficulty=3)[0], ScenesSource("test")[0]]
    assert all(other["images"] != shorter[0]["images"] for other in others)
    keys = {key for one in [shorter[0], *others] for key in one["image_keys"]}
    assert len(keys) == 4


def test_kinds_take_turns():
    source = ScenesSource(kinds=["word", "count"], examples=5)
    assert [source[i]["kind"] for i in range(5)] == ["word", "count", "word", "count", "word"]
    assert source.kind_counts() == {"word": 3, "count": 2}
    assert source.description() == "scenes train in images: 5 examples (count 2, word 3)"
    assert {kind: counts.total() for kind, counts in source.answers_by_kind().items()} == source.kind_counts()


def test_a_scene_in_words_is_said_again_in_another_order_where_that_is_named():
    source = ScenesSource(kinds=["repeat"], modality="text", difficulty=1)
    same_order = 0
    for example in map(source.__getitem__, range(60)):
        asked, answer = (message["content"] for message in example["messages"])
        words, order = re.fullmatch(r"(.+)\. (Say it in another order|Say the places last)\.", asked).groups()
        things = [part.split(": ") for part in answer.removesuffix(".").split("; ")]
        said = [f"{a}: {b}" if order == "Say it in another order" else f"{b}: {a}" for a, b in things]
        assert sorted(said) == sorted(words.split("; "))
        assert len(said) == 3
        same_order += said == words.split("; ")
    assert 3 <= same_order <= 20  # of 60, 1 in 6 by chance
    assert "repeat" not in ScenesSource(modality="text").kind_counts()


def test_a_caption_is_there_where_it_is_named():
    example = ScenesSource(kinds=["caption"], difficulty=1)[0]
    assert example["question"] == "Describe the picture."
    assert example["answer"].count(";") == 2
    assert "caption" not in ScenesSource().kind_counts()


def test_test_images_are_none_of_training():
    train, test = ScenesSource(examples=300), ScenesSource("test", examples=100)
    seen = {np.asarray(Image.open(io.BytesIO(one["images"][0]))).tobytes() for one in train}
    assert not seen & {np.asarray(Image.open(io.BytesIO(one["images"][0]))).tobytes() for one in test}


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"kinds": ["counts"]}, "count"),
        ({"kinds": ["word"], "modality": "text"}, "word"),
        ({"kinds": ["caption"], "split": "test"}, "caption"),
        ({"kinds": ["repeat"], "modality": "images"}, "repeat"),
        ({"split": "tests"}, "test"),
        ({"difficulty": 4}, "from 1 to 3"),
        ({"examples": 0}, "at least 1"),
        ({"modality": "image"}, "images"),
        ({"prompt": "Describe it."}, "question"),
        ({"kinds": []}, "no kinds"),
    ],
)
def test_wrong_settings_are_named(settings, hint):
    with pytest.raises(Owl2Error, match=hint):
        make_source("scenes", **settings)


def test_a_kind_that_the_split_lacks_is_an_unknown_name():
    with pytest.raises(UnknownNameError, match="relation"):
        ScenesSource("composed", kinds=["home", "relations"])


@pytest.mark.parametrize("modality", ["images", "text"])
def test_a_conversation_goes_on_about_the_scene_of_its_first_question(modality):
    kinds = ["count", "relation", "size", "home"]
    one, many = (ScenesSource(modality=modality, kinds=kinds, turns=turns) for turns in (1, 4))
    for index in range(12):
        first, whole = one[index]["messages"], many[index]["messages"]
        assert whole[:2] == first
        assert len(whole) == (2 if many[index]["kind"] == "home" and modality == "text" else 8)
        assert [said["role"] for said in whole] == ["user", "assistant"] * (len(whole) // 2)
        assert not any("<|image|>" in said["content"] for said in whole[1:])
        assert one[index].get("images") == many[index].get("images")


def test_a_scored_split_has_no_further_turns():
    with pytest.raises(Owl2Error, match="turns is 4, but the split test is scored by one answer"):
        ScenesSource("test", turns=4)
