"""The released reading of records: the ids of the released training code, and what it cannot show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from owl2_jax.config import load_config
from owl2_jax.core.axes import IGNORE_LABEL, IMAGE_TOKEN
from owl2_jax.core.errors import UnknownNameError
from owl2_jax.data.conversation import expand
from owl2_jax.data.encode import Encoder
from owl2_jax.data.messages import check_messages
from owl2_jax.data.pipeline import load_tokenizer, open_mixture
from owl2_jax.data.released_reading import ReleasedImageError, released_messages
from owl2_jax.data.sources.registry import make_source
from tests.data import corpora

CASES = Path(__file__).parent / "cases"
CONFIGS = Path(__file__).parents[2] / "configs"
TAG = "<|image|>"
GOLDEN = json.loads((CASES / "tag_places.json").read_text(encoding="utf-8"))
# The released code finds the borders of answers by the words around them, and learns nothing of
# these two, whose texts hold such words. Here the answers are learnt all the same.
UNLEARNT_THERE = ("20", "22")


@pytest.fixture(scope="module", params=["finetune_7b", "lora_7b"])
def recipe(request, tmp_path_factory):
    """The data settings of a released recipe for the handed records."""
    path = tmp_path_factory.mktemp("released") / "records.json"
    path.write_text(json.dumps([case["record"] for case in GOLDEN]))
    argument = f"data={path},image_folder={CASES},file_tag={TAG}"
    return load_config(f"{CONFIGS}/{request.param}.py:{argument}", ["data.tokenizer=embedded"]).data


@pytest.mark.parametrize("number", range(len(GOLDEN)))
def test_the_released_recipes_give_the_ids_of_the_released_code(recipe, number):
    case, one = GOLDEN[number], open_mixture(recipe, corpora.IMAGE_SIZE, 5).sets[0]
    draft = Encoder(recipe, 0, load_tokenizer(recipe), corpora.IMAGE_SIZE, 5).draft(one.source[number])
    # The released code calls an image's label -200 and ignores it all the same.
    labels = np.array(case["labels"])
    right = expand(np.array(case["ids"]), np.where(labels == IMAGE_TOKEN, IGNORE_LABEL, labels), 5)
    np.testing.assert_array_equal(draft.sample.tokens, right.tokens)
    np.testing.assert_array_equal(draft.sample.image_starts, right.image_starts)
    if case["record"]["id"] in UNLEARNT_THERE:
        assert right.num_supervised == 0 < draft.sample.targets
    else:
        np.testing.assert_array_equal(draft.sample.labels, right.labels)


def test_images_stay_where_they_are_written_in_the_other_reading(tmp_path):
    path = tmp_path / "records.json"
    path.write_text(json.dumps([case["record"] for case in GOLDEN]))
    source = make_source("llava", path=path, image_folder=str(CASES), file_tag=TAG)
    for case, example in zip(GOLDEN, source, strict=True):
        written = [turn["value"] for turn in case["record"]["conversations"]]
        assert [message["content"] for message in example["messages"]] == written


def messages(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (f"{TAG}\nWhat?", f"{TAG}\nWhat?"),
        (f"{TAG}What?", f"{TAG}\nWhat?"),
        (f"What?\n{TAG}", f"{TAG}\nWhat?"),
        (f" a {TAG} b ", f"{TAG}\na  b"),
        (f"{TAG} ", TAG),
        (f"x{TAG}y{TAG}z", f"{TAG}\nxyz"),
        (f"\u00a0{TAG}\u3000", TAG),
    ],
)
def test_a_tag_moves_to_the_front_of_its_turn(written, read):
    found = released_messages(messages("  first ", "a ", written, " b"), TAG, 1)
    assert [message["content"] for message in found] == ["  first ", "a ", read, " b"]
    # Reading what was read changes nothing.
    assert released_messages(found, TAG, 1) == found
    check_messages(found, TAG, 1)


@pytest.mark.parametrize(
    ("contents", "images", "words"),
    [
        (("What?", "A bus."), 1, "the image has no tag"),
        ((f"{TAG}a", "b", f"{TAG}c", "d"), 1, "messages 0, 2 have a tag"),
        ((f"{TAG}a", f"see {TAG}"), 1, "messages 0, 1 have a tag"),
        ((f"{TAG}{TAG}a", "b"), 2, "2 images; the released code takes one"),
    ],
)
def test_what_the_released_code_would_not_show_as_written_is_refused(contents, images, words):
    with pytest.raises(ReleasedImageError, match=words) as caught:
        released_messages(messages(*contents), TAG, images)
    assert caught.value.reason == "not_in_released"


def test_texts_without_images_are_left_alone():
    found = released_messages(messages("  Hello", "There. "), TAG, 0)
    assert found == messages("  Hello", "There. ")


def one_set(tmp_path, *records, **changes):
    """The first record through a config: (sample, note)."""
    corpora.write_images(tmp_path, 2)
    config = corpora.config(
        {"one": corpora.llava(corpora.write_set(tmp_path, "one", list(records)))}, **changes
    )
    return open_mixture(config, corpora.IMAGE_SIZE, corpora.TOKENS_PER_IMAGE), load_tokenizer(config)


def test_control_tokens_in_a_text_are_ids_in_the_released_reading_alone(tmp_path):
    record = corpora.dialogue("x", "one</s>two", [], question="a<s>b")
    for reading, ends, starts in (("as_written", 1, 1), ("released", 2, 2)):
        mixture, tokenizer = one_set(tmp_path, record, reading=reading)
        sample, _ = mixture.samples[0]
        assert sample.tokens.tolist().count(tokenizer.eos_id) == ends
        assert sample.tokens.tolist().count(tokenizer.bos_id) == starts


def test_a_source_may_be_read_otherwise_than_the_run(tmp_path):
    corpora.write_images(tmp_path, 1)
    path = corpora.write_set(tmp_path, "one", [corpora.dialogue("x", "yes", ["0.png"])])
    source = make_source("llava", path=path, reading="released")
    assert source[0]["messages"][0]["content"] == f"{TAG}\nWhat is it?"
    with pytest.raises(UnknownNameError, match=r"unknown source 'llava'\.reading 'release'.*'released'"):
        make_source("llava", path=path, reading="release")
    with pytest.raises(UnknownNameError, match=r"unknown data\.reading 'paper'"):
        corpora.config({"one": corpora.llava(path)}, reading="paper")
