from __future__ import annotations

import builtins
import pickle
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from pyarrow import parquet

from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.data.sources.base import RecordError
from owl2_jax.data.sources.parquet import GROUPS_KEPT, ParquetSource
from tests.data.sources.images import image

FIELDS = {"id": "qid", "image": "image", "question": "question", "answer": "answer", "answers": "all"}


def rows(count=10, start=0):
    return [
        {
            "qid": start + i,
            "image": {"bytes": image(start + i), "path": None},
            "question": f"what is {start + i}?",
            "answer": str(start + i),
            "all": [str(start + i), "other"],
        }
        for i in range(count)
    ]


def write(path, table_rows, group=3):
    parquet.write_table(pa.Table.from_pylist(table_rows), path, row_group_size=group)
    return path


def test_rows_are_read_across_files_and_row_groups(tmp_path):
    write(tmp_path / "a-0.parquet", rows(10))
    write(tmp_path / "a-1.parquet", rows(7, start=10))
    source = ParquetSource(tmp_path / "a-*.parquet", FIELDS, dataset="numbers")
    assert len(source) == 17
    for index in (16, 0, 3, 9, 10, -1):
        number = index % 17
        example = source[index]
        assert example["id"] == str(number)
        assert example["images"] == [image(number)]
        assert example["messages"][0]["content"] == f"<|image|>what is {number}?"
        assert example["messages"][1]["content"] == str(number)
        assert example["answers"] == [str(number), "other"]


def test_few_row_groups_stay_in_memory_and_none_travel(tmp_path):
    source = ParquetSource(write(tmp_path / "a.parquet", rows(30)), FIELDS, dataset="numbers")
    assert [source[index]["id"] for index in range(30)] == [str(index) for index in range(30)]
    assert len(source._kept) == GROUPS_KEPT
    copy = pickle.loads(pickle.dumps(source))
    assert not copy._kept
    assert copy[29]["id"] == "29"


def test_dialogue_columns_are_read(tmp_path):
    turns = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A bus."}]
    path = write(tmp_path / "a.parquet", [{"image": image(1), "turns": turns}])
    source = ParquetSource(path, {"conversations": "turns"}, dataset="d")
    assert source[0]["messages"][0] == {"role": "user", "content": "<|image|>What?"}
    assert source[0]["images"] == [image(1)]


def test_images_can_be_paths_and_several(tmp_path):
    (tmp_path / "a.png").write_bytes(image(1))
    path = write(tmp_path / "a.parquet", [{"pics": ["a.png", "a.png"], "caption": "twins"}])
    source = ParquetSource(
        path, {"image": "pics", "answer": "caption"}, dataset="d", image_folder=str(tmp_path), prompt="Say."
    )
    assert source[0]["images"] == [str(tmp_path / "a.png")] * 2
    assert source[0]["messages"][0]["content"] == "<|image|><|image|>Say."


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": None}, "corrupt_record"),
        ({"question": None}, "corrupt_record"),
        ({"image": {"bytes": None, "path": "none.png"}}, "missing"),
        ({"image": {"bytes": None, "path": None}}, "corrupt_record"),
        ({"all": None}, "corrupt_record"),
    ],
)
def test_bad_rows_are_rejected(tmp_path, change, reason):
    data = rows(2)
    data.append({**data[1], **change})
    source = ParquetSource(
        write(tmp_path / "a.parquet", data), FIELDS, dataset="d", image_folder=str(tmp_path)
    )
    with pytest.raises(RecordError) as caught:
        source[2]
    assert (caught.value.reason, caught.value.index) == (reason, 2)


def test_unknown_columns_and_fields_are_refused(tmp_path):
    path = write(tmp_path / "a.parquet", rows(1))
    with pytest.raises(UnknownNameError, match="answer"):
        ParquetSource(path, {"answer": "anser"}, dataset="d")
    with pytest.raises(Owl2Error, match="conversations"):
        ParquetSource(path, {"question": "question"}, dataset="d")
    with pytest.raises(UnknownNameError, match="question"):
        ParquetSource(path, {"answer": "answer", "qestion": "question"}, dataset="d")


def test_damaged_files_and_row_groups_are_named(tmp_path):
    path = write(tmp_path / "a.parquet", rows(10))
    data = bytearray(path.read_bytes())
    source = ParquetSource(path, FIELDS, dataset="d")
    data[4:200] = bytes(196)
    path.write_bytes(data)
    with pytest.raises(RecordError, match="row group 0 is unreadable"):
        source[0]
    path.write_bytes(b"no parquet")
    with pytest.raises(Owl2Error, match=r"a\.parquet as Parquet"):
        ParquetSource(path, FIELDS, dataset="d")


def test_missing_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", rows(1))
    original = builtins.__import__

    def without_pyarrow(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(Owl2Error, match=r"pip install .owl2_jax\[parquet\]"):
        ParquetSource(path, FIELDS, dataset="d")


@pytest.mark.parametrize("value", [None, "", " "])
def test_blank_names_of_images_make_text_only_examples(tmp_path, value):
    (tmp_path / "a.png").write_bytes(image(1))
    rows = [{"image": name, "caption": "x"} for name in ("a.png", value)]
    source = ParquetSource(
        write(tmp_path / "a.parquet", rows), {"answer": "caption"}, dataset="d", image_folder=str(tmp_path)
    )
    assert [len(one["images"]) for one in source] == [1, 0]


def test_lists_of_blank_names_make_text_only_examples(tmp_path):
    rows = [{"image": names, "caption": "x"} for names in (["a.png"], [], [""], [None])]
    source = ParquetSource(
        write(tmp_path / "a.parquet", rows), {"answer": "caption"}, dataset="d", image_folder=str(tmp_path)
    )
    assert [source[index]["images"] for index in (1, 2, 3)] == [[], [], []]
    with pytest.raises(RecordError, match=r"missing: no image 'a\.png'"):
        source[0]


def test_dialogue_columns_are_read_as_the_released_code_does_where_that_is_chosen(tmp_path):
    turns = [{"from": "human", "value": "What? <image>"}, {"from": "gpt", "value": "A bus."}]
    path = write(tmp_path / "a.parquet", [{"image": image(1), "turns": turns}])
    source = ParquetSource(path, {"conversations": "turns"}, dataset="d", reading="released")
    assert source[0]["messages"][0] == {"role": "user", "content": "<|image|>\nWhat?"}


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (LFS, "git-lfs pointer"),
        (b"<html>", "web page"),
        (b"", "empty"),
    ],
)
def test_what_a_file_is_instead_is_named(tmp_path, data, words):
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(Owl2Error, match=rf"a\.parquet is .*{words}"):
        ParquetSource(tmp_path / "a.parquet", {"answer": "caption"}, dataset="d")


def test_rows_of_a_bucket_are_read_by_the_group(bucket, bucket_server, tmp_path):
    for number in range(2):
        file = write(tmp_path / f"a-{number}.parquet", rows(9, start=9 * number))
        (bucket / file.name).write_bytes(file.read_bytes())
    there = ParquetSource(f"{bucket}/*.parquet", FIELDS, dataset="numbers")
    here = ParquetSource(tmp_path / "*.parquet", FIELDS, dataset="numbers")
    assert there.reads_bucket
    assert there.files == [f"{bucket}/a-0.parquet", f"{bucket}/a-1.parquet"]
    assert [there[index] for index in range(18)] == [here[index] for index in range(18)]
    assert pickle.loads(pickle.dumps(there))[17] == here[17]
    own = ParquetSource(f"{bucket}/*.parquet", FIELDS, dataset="numbers")
    bucket_server.ranges.clear()
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(own.__getitem__, (3, 4, 5, 3, 4, 5)))
    assert [example["id"] for example in found] == ["3", "4", "5", "3", "4", "5"]
    assert bucket_server.ranges
    assert all(path.endswith("a-0.parquet") for path, _, _ in bucket_server.ranges)


def test_other_files_of_a_bucket_are_refused_by_their_url(bucket):
    (bucket / "a.parquet").write_bytes(b"no Parquet at all")
    with pytest.raises(Owl2Error, match=f"cannot read {bucket}/a.parquet as Parquet"):
        ParquetSource(f"{bucket}/a.parquet", FIELDS, dataset="numbers")
