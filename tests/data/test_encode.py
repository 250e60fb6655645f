from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.augment import Augment
from owl2_jax.data.pipeline import open_mixture
from owl2_jax.data.reasons import REASONS
from tests.data import corpora
from tests.data.corpora import IMAGE_SIZE, TOKENS_PER_IMAGE, dialogue


@pytest.fixture
def folder(tmp_path):
    names = corpora.write_images(tmp_path, 4)
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    Image.new("RGB", (400, 300)).save(tmp_path / "huge.png")
    Image.new("F", (4, 4)).save(tmp_path / "floats.tif")
    assert names[0] == "0.png"
    return tmp_path


def read(folder, record, **changes):
    """(sample, note) of the only record of a set."""
    (folder / "one.jsonl").write_text((record if isinstance(record, str) else json.dumps(record)) + "\n")
    datasets = {"one": corpora.llava(folder / "one.jsonl")}
    config = corpora.config(datasets, **{"row_length": 40, **changes})
    return open_mixture(config, IMAGE_SIZE, TOKENS_PER_IMAGE).samples[0]


def test_a_good_record_becomes_a_sample(folder):
    sample, note = read(folder, dialogue("x", "a red circle", ["0.png", "1.png"]))
    assert note is None
    assert len(sample.images) == len(sample.image_starts) == 2
    assert sample.images[0].shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert sample.targets == (sample.labels[1:] != -100).sum() > 0


REJECTS = {
    "corrupt_record": ('{"id": "x", ', {}),
    "missing_field": ({"id": "x", "image": "0.png"}, {}),
    "bad_conversation": ({"id": "x", "conversations": [{"from": "robot", "value": "hi"}]}, {}),
    "wrong_tag": (dialogue("x", "<|image|> is it", ["0.png"]), {}),
    "image_count": (dialogue("x", "an <image>", ["0.png"]), {}),
    "not_in_released": (
        {**dialogue("x", "yes", []), "image": "0.png"},
        {"reading": "released"},
    ),
    "missing": (dialogue("x", "yes", ["nowhere.png"]), {}),
    "corrupt": (dialogue("x", "yes", ["damaged.jpg"]), {}),
    "unsupported": (dialogue("x", "yes", ["floats.tif"]), {}),
    "oversized": (dialogue("x", "yes", ["huge.png"]), {"max_pixels": 10_000}),
    "no_target": (dialogue("x", "", ["0.png"]), {}),
    "truncated": (dialogue("x", "word " * 40, []), {}),
    "too_many_images": (dialogue("x", "yes", ["0.png"] * 4), {}),
    "too_many_targets": (dialogue("x", "one two three four", []), {"max_targets": 3}),
}


@pytest.mark.parametrize("reason", REJECTS)
def test_each_reason_is_given_with_record_and_detail(folder, reason):
    record, changes = REJECTS[reason]
    sample, note = read(folder, record, **changes)
    assert sample is None
    assert (note.reason, note.record, note.dataset, note.used) == (reason, 0, "one", False)
    assert len(note.detail) > 20
    assert "\n" not in note.detail


def test_every_reason_that_can_be_given_is_listed_and_tested():
    # What a user may not read depends on who runs the tests; see sources/test_image_files.py.
    assert set(REASONS) == {*REJECTS, "invalid", "unreadable"}


def test_the_id_is_given_where_the_record_could_be_read(folder):
    assert read(folder, REJECTS["corrupt"][0])[1].id == "x"
    assert read(folder, REJECTS["corrupt_record"][0])[1].id is None


def test_a_long_sample_is_cut_and_noted_where_the_config_says_so(folder):
    sample, note = read(folder, dialogue("x", "word " * 40, []), long_samples="cut")
    assert len(sample) == 40
    assert (note.reason, note.used, note.id) == ("truncated", True, "x")
    assert "a row has 40" in note.detail


def test_a_image_behind_the_cut_goes_as_a_whole(folder):
    turns = [("human", "<image>one"), ("gpt", "word " * 25), ("human", "<image>two"), ("gpt", "yes")]
    record = {
        "id": "x",
        "image": ["0.png", "1.png"],
        "conversations": [{"from": who, "value": text} for who, text in turns],
    }
    sample, note = read(folder, record, long_samples="cut")
    assert len(sample.images) == len(sample.image_starts) == 1
    assert "1 images lie after its end" in note.detail


def test_a_cut_that_leaves_nothing_to_learn_is_rejected(folder):
    record = dialogue("x", "yes", [], question="why " * 60)
    sample, note = read(folder, record, long_samples="cut")
    assert sample is None
    assert note.reason == "no_target"


def test_images_per_sample_are_bounded_by_the_part_too(folder):
    record = dialogue("x", "yes", ["0.png"] * 3)
    assert read(folder, record)[0] is not None
    assert read(folder, record, images=2)[1].reason == "too_many_images"


def test_augmentation_differs_by_epoch_and_is_the_same_every_time(folder):
    (folder / "one.jsonl").write_text(json.dumps(dialogue("x", "yes", ["0.png"])) + "\n")
    datasets = {"one": corpora.llava(folder / "one.jsonl")}
    runs = []
    for cache in (False, True):
        config = corpora.config(datasets, augment=Augment(), cache_samples=cache)
        samples = open_mixture(config, IMAGE_SIZE, TOKENS_PER_IMAGE).samples
        runs.append([samples[epoch][0].images[0].tobytes() for epoch in (0, 1, 2, 0)])
    assert runs[0] == runs[1]
    assert runs[0][0] == runs[0][3]
    assert len(set(runs[0])) == 3
    other = corpora.config(datasets, augment=Augment(), seed=1)
    assert open_mixture(other, IMAGE_SIZE, TOKENS_PER_IMAGE).samples[0][0].images[0].tobytes() != runs[0][0]


def test_cached_samples_are_the_same_and_share_images():
    datasets = {"easy": corpora.DatasetConfig("embedded", {"dataset": "easy_vqa"})}
    plain, cached = (
        open_mixture(corpora.config(datasets, cache_samples=cache), 28, 5).sets[0] for cache in (False, True)
    )
    shown = {}
    for record in range(30):
        one, other = plain.get(record, 0)[0], cached.get(record, 1)[0]
        np.testing.assert_array_equal(one.images[0], other.images[0])
        np.testing.assert_array_equal(one.tokens, other.tokens)
        assert cached.get(record, 2)[0] is other
        shown[id(other.images[0])] = other.images[0]
    assert len(shown) < 20


def test_names_in_the_config_are_checked_before_a_record_is_read(folder):
    datasets = {"one": corpora.llava(corpora.write_set(folder, "one", [dialogue("x", "yes", [])]))}
    for change, message in [
        ({"image_mode": "padd"}, "image mode 'padd'.*'pad'"),
        ({"template": "v2"}, "template 'v2'"),
        ({"tokenizer": "nowhere.model"}, r"nowhere\.model"),
    ]:
        with pytest.raises(Owl2Error, match=message):
            open_mixture(corpora.config(datasets, **change), IMAGE_SIZE, TOKENS_PER_IMAGE)
