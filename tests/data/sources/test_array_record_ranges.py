from __future__ import annotations

import pickle
import random
import sys

import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.sources.array_record_ranges import ArrayRecordRanges

# Records and chunks that begin and end before, at and after borders of 64 KiB.
SIZES = (0, 1, 10, 1000, 65_000, 70_000, 140_000)


def write(path, records: list[bytes], options: str) -> bytes:
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return path.read_bytes()


def random_records(seed: int, count: int = 40) -> list[bytes]:
    chance = random.Random(seed)
    return [chance.randbytes(chance.choice(SIZES)) for _ in range(count)]


@pytest.mark.parametrize(
    "options",
    ["group_size:1,uncompressed", "group_size:1", "group_size:7,zstd:3", "group_size:3,brotli:6",
     "group_size:2,uncompressed,pad_to_block_boundary"],
)  # fmt: skip
def test_records_of_several_files_are_those_that_were_written(bucket, tmp_path, options):
    parts = [random_records(seed) for seed in range(2)]
    for number, records in enumerate(parts):
        (bucket / str(number)).write_bytes(write(tmp_path / "x", records, options))
    found = ArrayRecordRanges([f"{bucket}/0", f"{bucket}/1"])
    assert len(found) == 80
    assert [found[index] for index in range(80)] == parts[0] + parts[1]
    assert pickle.loads(pickle.dumps(found))[41] == parts[1][1]


def test_a_record_is_one_request_for_its_bytes_alone(bucket, bucket_server, tmp_path):
    records = [random.Random(number).randbytes(5000) for number in range(30)]
    (bucket / "x").write_bytes(write(tmp_path / "x", records, "group_size:1,uncompressed"))
    found = ArrayRecordRanges([f"{bucket}/x"])
    bucket_server.ranges.clear()
    assert [found[3], found[20]] == [records[3], records[20]]
    assert [last - first < 5200 for _, first, last in bucket_server.ranges] == [True, True]


def test_a_footer_longer_than_what_is_read_at_first_is_found(bucket, tmp_path):
    records = [b"%d" % number for number in range(20_000)]
    (bucket / "x").write_bytes(write(tmp_path / "x", records, "group_size:1,uncompressed"))
    found = ArrayRecordRanges([f"{bucket}/x"])
    assert [found[number] for number in (0, 12_345, 19_999)] == [b"0", b"12345", b"19999"]


@pytest.mark.parametrize(
    ("options", "words"),
    [("group_size:2,snappy", "compressed by 's'"), ("group_size:2,transpose", "transposed")],
)
def test_ways_of_writing_that_cannot_be_read_are_told_at_the_start(bucket, tmp_path, options, words):
    (bucket / "x").write_bytes(write(tmp_path / "x", [b"1", b"2"], options))
    with pytest.raises(Owl2Error, match=rf"{bucket}/x: .*{words}.*write it uncompressed"):
        ArrayRecordRanges([f"{bucket}/x"])


def test_compression_without_pyarrow_names_its_extra(bucket, tmp_path, monkeypatch):
    (bucket / "x").write_bytes(write(tmp_path / "x", [b"1", b"2"], "group_size:1"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Owl2Error, match=r"needs pyarrow in a bucket.*owl2_jax\[parquet\]"):
        ArrayRecordRanges([f"{bucket}/x"])


def test_other_files_cut_files_and_damage_are_told(bucket, tmp_path):
    whole = write(tmp_path / "x", random_records(0), "group_size:1,uncompressed")
    for content, words in (
        (b"", "x is empty"), (b"<!DOCTYPE html>", "x is a web page"), (b"short", "expected 65,536 at least"),
        (whole[:-100], "cannot open .*x as ArrayRecord"), (bytes(200_000), "cannot open .*x as ArrayRecord"),
    ):  # fmt: skip
        (bucket / "x").write_bytes(content)
        with pytest.raises(Owl2Error, match=words):
            ArrayRecordRanges([f"{bucket}/x"])
    with pytest.raises(Owl2Error, match="none is not there"):
        ArrayRecordRanges([f"{bucket}/none"])


def test_a_damaged_record_is_a_value_error(bucket, tmp_path):
    content = bytearray(write(tmp_path / "x", [bytes(100), bytes(100)], "group_size:1,uncompressed"))
    (bucket / "x").write_bytes(bytes(content))
    found = ArrayRecordRanges([f"{bucket}/x"])
    start = int(found._files[0].borders[1])
    content[start : start + 40] = bytes(40)
    (bucket / "x").write_bytes(bytes(content))
    with pytest.raises(ValueError, match="a chunk is damaged"):
        found[1]
    assert found[0] == bytes(100)
