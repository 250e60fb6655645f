from __future__ import annotations

import json

import pytest

from owl2_jax.core.buckets import upload_folder
from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.data import images
from owl2_jax.data.sources.base import RecordError
from owl2_jax.data.sources.coco import CocoCaptionsSource
from tests.data.sources.images import image

CONTENT = {
    "info": {"year": 2017},
    "images": [
        {"id": 9, "file_name": "000000000009.jpg", "height": 4, "width": 4},
        {"id": 25, "file_name": "000000000025.jpg", "height": 4, "width": 4},
        {"id": 30, "file_name": "000000000030.jpg", "height": 4, "width": 4},
    ],
    "annotations": [
        {"id": 661611, "image_id": 9, "caption": "Bread and fruit. "},
        {"id": 37, "image_id": 25, "caption": "A giraffe."},
        {"id": 661977, "image_id": 9, "caption": "A meal in boxes."},
        {"id": 5, "image_id": 99, "caption": "Nowhere."},
        {"id": 6, "image_id": 25},
    ],
}


@pytest.fixture
def folder(tmp_path):
    for number in (9, 25):
        (tmp_path / f"{number:012d}.jpg").write_bytes(image(number, "JPEG"))
    (tmp_path / "captions.json").write_text(json.dumps(CONTENT))
    return tmp_path


def test_one_example_per_caption(folder):
    source = CocoCaptionsSource(folder / "captions.json", folder, prompt="Describe it.")
    assert len(source) == 5
    assert source[2]["id"] == "661977"
    assert source[2]["images"] == [str(folder / "000000000009.jpg")]
    assert source[2]["messages"] == [
        {"role": "user", "content": "<|image|>Describe it."},
        {"role": "assistant", "content": "A meal in boxes."},
    ]
    assert source[0]["answer"] == "Bread and fruit."
    assert source[0]["image_keys"] == source[2]["image_keys"]


def test_one_example_per_image_holds_all_captions(folder):
    source = CocoCaptionsSource(folder / "captions.json", folder, unit="image")
    assert source[0]["id"] == "9"
    assert source[0]["answers"] == ["Bread and fruit.", "A meal in boxes."]
    assert "one per image" in source.description()


def test_bad_annotations_are_rejected(folder):
    source = CocoCaptionsSource(folder / "captions.json", folder)
    for index, reason in ((3, "missing"), (4, "missing_field")):
        with pytest.raises(RecordError) as caught:
            source[index]
        assert caught.value.reason == reason
    by_image = CocoCaptionsSource(folder / "captions.json", folder, unit="image")
    with pytest.raises(RecordError, match="missing_field: no caption for image 30"):
        by_image[2]
    (folder / "000000000009.jpg").unlink()
    with pytest.raises(RecordError, match="missing: no image"):
        source[0]


def test_other_units_and_files_are_refused(folder):
    with pytest.raises(UnknownNameError, match="caption"):
        CocoCaptionsSource(folder / "captions.json", folder, unit="captions")
    (folder / "other.json").write_text('[{"id": 1}]')
    with pytest.raises(Owl2Error, match=r"other\.json is not in COCO"):
        CocoCaptionsSource(folder / "other.json", folder)
    (folder / "cut.json").write_text(json.dumps(CONTENT)[:-9])
    with pytest.raises(Owl2Error, match=r"cut\.json is not valid JSON.*cut off"):
        CocoCaptionsSource(folder / "cut.json", folder)


def test_byte_order_marks_of_file_and_captions_are_skipped(folder):
    content = json.loads(json.dumps(CONTENT))
    content["annotations"][0]["caption"] = "\ufeff Bread. "
    (folder / "mark.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    source = CocoCaptionsSource(folder / "mark.json", folder)
    assert source[0]["answer"] == "Bread."
    assert source[0]["answers"] == ["Bread."]


def test_a_file_of_utf_16_is_named(folder):
    (folder / "wide.json").write_text(json.dumps(CONTENT), encoding="utf-16")
    with pytest.raises(Owl2Error, match=r"wide\.json is UTF-16, not UTF-8"):
        CocoCaptionsSource(folder / "wide.json", folder)


def test_captions_and_images_are_read_from_a_bucket(folder, bucket):
    upload_folder(folder, bucket)
    there = CocoCaptionsSource(str(bucket / "captions.json"), str(bucket))
    here = CocoCaptionsSource(folder / "captions.json", folder)
    assert there.reads_bucket
    assert there.files == [str(bucket / "captions.json")]
    found, expected = there[2], here[2]
    assert images.read_file(found["images"][0]) == images.read_file(expected["images"][0])
    assert {**found, "images": None} == {**expected, "images": None}
