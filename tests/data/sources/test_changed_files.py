"""Every kind of source names its files, so that others of the same name and record count are told apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from owl2_jax.core.file_identity import changes, identities
from owl2_jax.data.sources.arrayrecord import encode_example
from owl2_jax.data.sources.base import Style
from owl2_jax.data.sources.embedded import FOLDER
from owl2_jax.data.sources.registry import SOURCES, make_source
from tests.data.corpora import dialogue
from tests.data.sources import test_arrayrecord, test_parquet, test_vqa, test_webdataset
from tests.data.sources.test_coco import CONTENT
from tests.data.sources.test_tfds_builder import FIELDS, data_dir  # noqa: F401


def write_json(path: Path, content: object, word: str) -> None:
    """JSON in which `word` stands for "caption"."""
    path.write_text(json.dumps(content).replace("caption", word))


def llava(folder: Path, word: str) -> tuple[list[str], dict]:
    write_json(folder / "a.json", [dialogue("a", "caption", [])], word)
    return ["a.json"], {"path": str(folder / "a.json")}


def webdataset(folder: Path, word: str) -> tuple[list[str], dict]:
    members = [
        (name, data.replace(b"caption", word.encode())) for name, data in test_webdataset.members(0, 2)
    ]
    for name in ("0.tar", "1.tar"):
        test_webdataset.write(folder / name, members)
    return ["0.tar", "1.tar"], {"paths": str(folder / "*.tar"), "dataset": "d"}


def parquet(folder: Path, word: str) -> tuple[list[str], dict]:
    rows = [{**row, "answer": word} for row in test_parquet.rows(3)]
    test_parquet.write(folder / "a.parquet", rows)
    return ["a.parquet"], {"paths": str(folder / "*"), "fields": test_parquet.FIELDS, "dataset": "d"}


def arrayrecord(folder: Path, word: str) -> tuple[list[str], dict]:
    record = encode_example(Style("facts").example("b", "what?", word))
    test_arrayrecord.write(folder / "a.array_record", [record])
    return ["a.array_record"], {"paths": str(folder / "*.array_record")}


def coco_captions(folder: Path, word: str) -> tuple[list[str], dict]:
    write_json(folder / "a.json", {**CONTENT, "info": "caption"}, "caption")
    (folder / "a.json").write_text((folder / "a.json").read_text().replace("giraffe", word))
    return ["a.json"], {"annotations": str(folder / "a.json"), "image_folder": str(folder)}


def vqa(folder: Path, word: str) -> tuple[list[str], dict]:
    (folder / "q.json").write_text(json.dumps(test_vqa.QUESTIONS).replace("boxes", word))
    (folder / "a.json").write_text(json.dumps(test_vqa.ANNOTATIONS).replace('"5"', f'"{word}"'))
    options = {"questions": str(folder / "q.json"), "annotations": str(folder / "a.json")}
    return ["q.json", "a.json"], {**options, "image_folder": str(folder)}


def embedded(folder: Path, word: str) -> tuple[list[str], dict]:
    for path in FOLDER.iterdir():
        (folder / path.name).unlink(missing_ok=True)
        (folder / path.name).symlink_to(path)
    (folder / "manifest.json").unlink()
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "built": word}))
    return ["manifest.json"], {"dataset": "facts", "folder": str(folder)}


MADE = (llava, webdataset, parquet, arrayrecord, coco_captions, vqa, embedded)


def test_no_kind_is_left_out():
    assert {make.__name__ for make in MADE} | {"tfds", "scenes"} == set(SOURCES)


def test_scenes_have_no_files_as_they_are_made_from_their_settings():
    assert make_source("scenes").files == []


@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)
def test_other_files_of_the_same_names_and_record_count_are_named(tmp_path, make):
    def source(word: str):
        names, options = make(tmp_path, word)
        return names, make_source(make.__name__, **options)

    names, first = source("caption")
    before = identities(first.files)
    names, again = source("caption")
    assert changes(before, identities(again.files)) == []
    names, other = source("another")
    assert len(other) == len(first)
    lines = changes(before, identities(other.files))
    assert [line.split(" ")[0] for line in lines] == sorted(str(tmp_path / name) for name in names)


def test_tfds_names_the_files_of_its_builder(data_dir):  # noqa: F811
    source = make_source("tfds", builder="owl2_source_test", split="train", fields=FIELDS, data_dir=data_dir)
    assert any("array_record" in name for name in source.files)
    assert identities(source.files)
