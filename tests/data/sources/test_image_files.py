from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from owl2_jax.data.sources import image_files
from owl2_jax.data.sources.base import RecordError
from owl2_jax.data.sources.llava import LlavaSource
from tests.data.sources.images import image

CASES = Path(__file__).parents[1] / "cases"


@pytest.fixture
def folder(tmp_path):
    below = tmp_path / "pics"
    (below / "coco").mkdir(parents=True)
    for name in ("a.png", "a b.png", "coco/a.jpg", "ü日本.png"):
        (below / name).write_bytes(image(1))
    (tmp_path / "outside.png").write_bytes(image(1))
    return below


def refusal(folder, name) -> RecordError:
    with pytest.raises(RecordError) as caught:
        image_files.image_path(folder, name, "s.json", 3)
    assert str(caught.value).startswith(f"s.json[3]: {caught.value.reason}: ")
    return caught.value


@pytest.mark.parametrize(
    ("name", "reason"),
    [("no.jpg", "missing"), ("", "corrupt_record"), (3, "corrupt_record"), ("../a.jpg", "corrupt_record"),
     ("/etc/hostname", "corrupt_record"), ("a\0.jpg", "missing"), ("x" * 5000, "missing"), (".", "missing"),
     ("coco/../../outside.png", "corrupt_record"), ("..", "corrupt_record"), (" ", "corrupt_record")],
)  # fmt: skip
def test_images_must_be_files_in_the_folder(folder, name, reason):
    assert refusal(folder, name).reason == reason


@pytest.mark.parametrize(
    "name", ["a.png", "./a.png", "coco/../a.png", "missing/../a.png", "coco/a.jpg", "a b.png", "ü日本.png"]
)
def test_names_inside_the_folder_are_found(folder, name):
    path = image_files.image_path(folder, name, "s", 0)
    assert os.path.samefile(path, folder / os.path.normpath(name))


def test_an_absolute_path_inside_the_folder_is_inside(folder, monkeypatch):
    absolute = str(folder / "a.png")
    assert image_files.image_path(folder, absolute, "s", 0) == absolute
    monkeypatch.chdir(folder.parent)
    assert image_files.image_path("pics", absolute, "s", 0) == absolute
    monkeypatch.chdir(folder)
    assert image_files.image_path(".", absolute, "s", 0) == absolute
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert image_files.image_path(link, absolute, "s", 0) == absolute


def test_an_absolute_path_of_another_machine_is_answered_with_the_name_to_write(folder):
    error = refusal(folder, "/home/me/pics/coco/a.jpg")
    assert error.reason == "corrupt_record"
    assert "lies outside" in str(error)
    assert "coco/a.jpg is inside: write that if it is the same image" in str(error)
    # A folder whose name begins alike is another one.
    assert refusal(folder, f"{folder}2/none.png").reason == "corrupt_record"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("coco\\a.jpg", "backslashes; write 'coco/a.jpg', which is there"),
        ("http://images.cocodataset.org/a.jpg", "a URL, and nothing is downloaded"),
        ("a%20b.png", "written as in a URL; write 'a b.png', which is there"),
        ("COCO/a.jpg", "'coco/a.jpg' is there, in another letter case; write it so"),
        ("coco/A.JPG", "'coco/a.jpg' is there, in another letter case; write it so"),
        ("pics/a.png", "'a.png' is there; write that, or give the folder above as image_folder"),
        ("coco/b.jpg", "did you mean 'a.jpg', which is there?"),
        ("a\0b.png", "NUL character"),
        ("none", "no image 'none'"),
    ],
)
def test_a_missing_image_is_named_as_what_it_is(folder, name, words):
    error = refusal(folder, name)
    assert error.reason == "missing"
    assert words in str(error)


def test_a_long_name_is_shortened_in_the_message(folder):
    assert len(str(refusal(folder, "x" * 3000))) < 400


def test_a_missing_image_folder_is_named(folder):
    assert "that folder is missing too" in str(refusal(folder / "nowhere", "a.png"))


def test_a_forbidden_folder_is_not_called_missing(folder, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(image_files.os.path, "isfile", lambda path: False)
    monkeypatch.setattr(image_files.os, "stat", forbidden)
    error = refusal(folder, "a.png")
    assert error.reason == "unreadable"
    assert "may not read" in str(error)


@pytest.mark.parametrize("value", [None, "", " ", [], [""], [None], ["", None, "\t"]])
def test_the_ways_to_say_no_image(value):
    assert image_files.image_names(value) == []


def test_a_blank_beside_a_image_is_refused_and_not_skipped(folder):
    assert image_files.image_names(["a.png", ""]) == ["a.png", ""]
    assert refusal(folder, "").reason == "corrupt_record"


def test_every_handed_path_is_read_or_named(folder, tmp_path):
    records = json.loads((CASES / "paths.json").read_text(encoding="utf-8"))
    records[0]["image"] = str(folder / "a.png")
    path = tmp_path / "paths.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    source, outcomes = LlavaSource(path, folder), {}
    for index in range(len(source)):
        try:
            outcomes[source[index]["id"]] = "read"
        except RecordError as error:
            outcomes[records[index]["id"]] = str(error)
    assert {identity for identity, outcome in outcomes.items() if outcome == "read"} == {
        "0",
        "4",
        "6",
        "7",
        "9",
    }
    for identity, words in {"1": "backslashes", "2": "URL", "3": "as in a URL", "5": "another letter case",
                            "8": "'a.png' is there", "10": "NUL", "11": "no image"}.items():  # fmt: skip
        assert words in outcomes[identity]
        assert f"paths.json[{identity}]" in outcomes[identity]
