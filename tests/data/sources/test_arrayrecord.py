from __future__ import annotations

import pickle

import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.sources.arrayrecord import ArrayRecordSource, decode_example, encode_example
from owl2_jax.data.sources.base import RecordError, Style
from tests.data.sources.images import image

EXAMPLES = [
    Style("shapes").example("a", "which is larger?", "the first", [image(1), image(2)], kind="compare"),
    Style("facts").example("b", "caf\u00e9?", "oui"),
]


def write(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for one in records:
        writer.write(one)
    writer.close()
    return path


def test_examples_come_back_as_they_were_written(tmp_path):
    source = ArrayRecordSource(write(tmp_path / "x.array_record", map(encode_example, EXAMPLES)))
    assert [source[index] for index in range(len(source))] == EXAMPLES
    assert pickle.loads(pickle.dumps(source))[1] == EXAMPLES[1]
    assert "2 examples" in source.description()


def test_shards_are_one_list_and_the_dataset_can_be_renamed(tmp_path):
    for number, example in enumerate(EXAMPLES):
        write(tmp_path / f"x-{number:05d}.array_record", [encode_example(example)])
    source = ArrayRecordSource(tmp_path / "x-*.array_record", dataset="mine")
    assert [source[index]["id"] for index in range(len(source))] == ["a", "b"]
    assert source[0]["dataset"] == "mine"


def test_the_declared_tag_is_translated_and_the_other_rejected(tmp_path):
    path = write(tmp_path / "x.array_record", [encode_example(EXAMPLES[0])])
    translated = ArrayRecordSource(path, image_tag="<image>")[0]
    assert translated["messages"][0]["content"] == "<image><image>which is larger?"
    with pytest.raises(RecordError) as caught:
        ArrayRecordSource(path, file_tag="<image>")[0]
    assert caught.value.reason == "wrong_tag"


def test_images_given_as_paths_are_refused():
    with pytest.raises(Owl2Error, match="is a path"):
        encode_example(Style("d").example("a", "q", "a", ["a.png"]))


GOOD = encode_example(EXAMPLES[0])


@pytest.mark.parametrize(
    "data",
    [b"", b"OWL2", b"JUNK" + GOOD[4:], GOOD[:-1], GOOD + b"x", GOOD[:20], b"OWL2\xff\xff\xff\xff" + GOOD[8:]],
)
def test_damaged_records_are_corrupt(data):
    with pytest.raises(RecordError) as caught:
        decode_example(data, "s", 4)
    assert (caught.value.reason, caught.value.index) == ("corrupt_record", 4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": []}, "image_count"),
        ({"messages": []}, "bad_conversation"),
        ({"messages": None}, "bad_conversation"),
    ],
)
def test_records_that_are_no_dialogue_are_rejected(tmp_path, change, reason):
    path = write(tmp_path / "x.array_record", [encode_example({**EXAMPLES[0], **change})])
    with pytest.raises(RecordError) as caught:
        ArrayRecordSource(path)[0]
    assert caught.value.reason == reason


def test_missing_fields_are_named(tmp_path):
    example = {key: value for key, value in EXAMPLES[0].items() if key != "dataset"}
    path = write(tmp_path / "x.array_record", [encode_example(example)])
    with pytest.raises(RecordError, match="missing_field: no 'dataset'"):
        ArrayRecordSource(path)[0]


def test_a_flipped_byte_spoils_one_record_only(tmp_path):
    examples = [Style("d").example(str(i), "q", "a", [bytes([i]) * 50]) for i in range(20)]
    path = write(tmp_path / "x.array_record", map(encode_example, examples))
    data = bytearray(path.read_bytes())
    data[data.index(b'"id":"7"')] ^= 255 if b'"id":"7"' in data else 0
    path.write_bytes(data)
    source, bad = ArrayRecordSource(path), []
    for index in range(len(source)):
        try:
            source[index]
        except RecordError as error:
            bad.append((error.index, error.reason))
    assert bad == [(7, "corrupt_record")]


@pytest.mark.parametrize("data", [b"", b"hello", b"hello" * 40_000])
def test_files_of_another_kind_are_refused(tmp_path, data):
    path = tmp_path / "x.array_record"
    path.write_bytes(data)
    with pytest.raises(Owl2Error, match=r"x\.array_record"):
        ArrayRecordSource(path)


def test_a_cut_file_is_refused(tmp_path):
    path = write(tmp_path / "x.array_record", map(encode_example, EXAMPLES))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Owl2Error, match=r"x\.array_record"):
        ArrayRecordSource(path)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0"


@pytest.mark.parametrize(
    ("data", "words"),
    [(LFS, "git-lfs pointer"), (b"<html>", "web page")],
)
def test_what_a_file_is_instead_is_named(tmp_path, data, words):
    (tmp_path / "a.array_record").write_bytes(data)
    with pytest.raises(Owl2Error, match=rf"a\.array_record is .*{words}"):
        ArrayRecordSource(tmp_path / "a.array_record")
