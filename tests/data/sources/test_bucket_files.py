from __future__ import annotations

import dataclasses
import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from owl2_jax.core import buckets
from owl2_jax.core.buckets import StoreError, upload_folder
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_identity import identities
from owl2_jax.data import images
from owl2_jax.data.config import DatasetConfig
from owl2_jax.data.pipeline import Pipeline, load_tokenizer
from owl2_jax.data.sources import bucket_files
from owl2_jax.data.sources.arrayrecord import ArrayRecordSource, encode_example
from owl2_jax.data.sources.base import RecordError, Style
from owl2_jax.data.sources.llava import LlavaSource
from owl2_jax.data.sources.webdataset import WebDatasetSource
from owl2_jax.testing import tiny
from tests.data import corpora
from tests.data.corpora import dialogue
from tests.data.sources import test_webdataset
from tests.data.sources.test_arrayrecord import EXAMPLES, write


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of the copies."""
    monkeypatch.setenv(bucket_files.FOLDER, str(tmp_path / "cache"))
    yield tmp_path / "cache"
    bucket_files.let_go()


def copies(cache) -> list[str]:
    return sorted(path.name for path in cache.glob("*/*") if path.parent.name != "uses")


def test_an_object_is_fetched_once_and_again_when_it_was_written_again(bucket, cache, bucket_server):
    (bucket / "a.bin").write_bytes(b"one")
    url = str(bucket / "a.bin")
    first = bucket_files.local_copies(["here.bin", url])
    assert first[0] == "here.bin"
    assert Path(first[1]).read_bytes() == b"one"
    bucket_server.requests.clear()
    assert bucket_files.local_copies([url]) == first[1:]
    assert not any("alt=media" in path for _, path in bucket_server.requests)
    assert bucket_files.original_names(first) == ["here.bin", url]
    (bucket / "a.bin").write_bytes(b"two")
    assert Path(bucket_files.local_copies([url])[0]).read_bytes() == b"two"
    assert copies(cache) == ["a.bin", "a.bin"]


def test_copies_used_longest_ago_make_room_but_not_those_that_are_read(bucket, cache, monkeypatch):
    for name in "abc":
        (bucket / f"{name}.bin").write_bytes(bytes(1000))
    monkeypatch.setenv(bucket_files.BOUND, str(2500 / 2**30))
    bucket_files.local_copies([str(bucket / "a.bin")])
    bucket_files.let_go()
    bucket_files.local_copies([str(bucket / "b.bin")])
    bucket_files.local_copies([str(bucket / "c.bin")])
    assert copies(cache) == ["b.bin", "c.bin"]
    bucket_files.local_copies([str(bucket / "a.bin")])
    assert copies(cache) == ["a.bin", "b.bin", "c.bin"], "all are read"


def test_objects_beyond_the_bound_are_refused(bucket, cache, monkeypatch):
    (bucket / "a.bin").write_bytes(bytes(4000))
    monkeypatch.setenv(bucket_files.BOUND, str(2500 / 2**30))
    with pytest.raises(Owl2Error, match=r"a.bin and what belongs to it have .* set OWL2_DATA_CACHE_GIB"):
        bucket_files.local_copies([str(bucket / "a.bin")])
    monkeypatch.setenv(bucket_files.BOUND, "none")
    with pytest.raises(Owl2Error, match="OWL2_DATA_CACHE_GIB: expected a number"):
        bucket_files.local_copies([str(bucket / "a.bin")])


def test_content_that_arrives_damaged_is_fetched_again_and_then_refused(bucket, cache, monkeypatch):
    (bucket / "a.bin").write_bytes(b"whole")
    url, download, damaged = (
        str(bucket / "a.bin"),
        buckets.download,
        iter([b"whol", b"wHole", b""]),
    )

    def flaky(url, target):
        content = next(damaged)
        if content:
            target.write_bytes(content)
        else:
            download(url, target)

    monkeypatch.setattr(buckets, "download", flaky)
    assert Path(bucket_files.local_copies([url])[0]).read_bytes() == b"whole"
    shutil.rmtree(cache)
    damaged = iter([b"x"] * 3)
    with pytest.raises(Owl2Error, match=r"a.bin arrived damaged 3 times: 1 of 5 bytes; try again later"):
        bucket_files.local_copies([url])
    assert copies(cache) == []


def test_a_missing_object_is_told(bucket):
    with pytest.raises(Owl2Error, match=r"none.bin is not there: no such bucket, or no such object"):
        bucket_files.local_copies([str(bucket / "none.bin")])


def test_dialogues_and_their_images_are_read_from_a_bucket(bucket):
    records = [dialogue(str(n), "a", [name]) for n, name in enumerate(("0.png", "sub/none.png", "../x.png"))]
    (bucket / "data.json").write_text(json.dumps(records))
    (bucket / "0.png").write_bytes(tiny.image_file(0))
    source = LlavaSource(str(bucket / "data.json"))
    assert len(source) == 3
    assert source.files == [str(bucket / "data.json")]
    assert source[0]["images"] == [str(bucket / "0.png")]
    assert images.decode(source[0]["images"][0]).size == images.decode(tiny.image_file(0)).size
    with pytest.raises(images.ImageError) as caught:
        images.decode(source[1]["images"][0])
    assert caught.value.reason == "missing"
    with pytest.raises(RecordError, match="lies outside gs://"):
        source[2]
    assert identities(source.files).keys() == {str(bucket / "data.json")}


def test_a_pattern_of_a_bucket_stands_for_its_objects(bucket, tmp_path):
    files = [
        write(tmp_path / f"x-{number:05d}.array_record", [encode_example(example)])
        for number, example in enumerate(EXAMPLES)
    ]
    for file in files:
        (bucket / file.name).write_bytes(file.read_bytes())
    there, here = ArrayRecordSource(f"{bucket}/*.array_record"), ArrayRecordSource([str(f) for f in files])
    assert [there[i] for i in range(len(there))] == [here[i] for i in range(len(here))]
    assert there.files == [str(bucket / file.name) for file in files]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_from_a_bucket_are_those_from_a_disk(bucket, tmp_path, workers):
    here = corpora.mixed_sets(tmp_path, records=12)
    there = {name: corpora.llava(bucket / f"{name}.json") for name in here}
    tokenizer = bucket / "tokenizer.model"
    tokenizer.write_bytes(load_tokenizer(corpora.config(here)).bytes)
    for file in tmp_path.iterdir():
        if file.is_file():
            (bucket / file.name).write_bytes(file.read_bytes())
    there["imaged"] = dataclasses.replace(there["imaged"], weight=2.0)
    found = next_batch(corpora.config(there, workers=workers, tokenizer=str(tokenizer)))
    expected = next_batch(corpora.config(here))
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
    assert expected.images.any()


def next_batch(config):
    pipeline = Pipeline(config, corpora.IMAGE_SIZE, corpora.TOKENS_PER_IMAGE)
    try:
        assert load_tokenizer(config).vocab_size > 0
        return next(pipeline)
    finally:
        pipeline.close()


def set_of_images(folder, records: int) -> None:
    """Writes `data.json` with as many records as images."""
    content = tiny.image_file(0)
    for number in range(records):
        (folder / f"{number}.png").write_bytes(content)
    dialogues = [dialogue(str(n), "a", [f"{n}.png"]) for n in range(records)]
    (folder / "data.json").write_text(json.dumps(dialogues))


def images_asked_for(server) -> set[str]:
    paths = (path.partition("?")[0] for _, path in server.requests if "alt=media" in path)
    return {path for path in paths if path.endswith(".png")}


def test_each_host_reads_the_images_of_its_own_shards_alone(bucket, bucket_server, tmp_path):
    (tmp_path / "set").mkdir()
    set_of_images(tmp_path / "set", 160)
    upload_folder(tmp_path / "set", bucket)
    config = corpora.config({"x": corpora.llava(bucket / "data.json")}, shards=2, prefetch=1)
    read = []
    for number in range(2):
        bucket_server.requests.clear()
        pipeline = Pipeline(config, corpora.IMAGE_SIZE, corpora.TOKENS_PER_IMAGE, (number, 2))
        try:
            next(pipeline)
        finally:
            pipeline.close()
        read.append(images_asked_for(bucket_server))
    assert len(read[0]) > 10
    assert len(read[1]) > 10
    assert not read[0] & read[1]


def webdataset(folder, count: int) -> DatasetConfig:
    """Shards of ten samples, whose images are their most bytes."""
    content = tiny.image_file(0)
    content += bytes(20_000 - len(content))  # what follows an image's end is passed over
    for first in range(0, count, 10):
        files = [
            one
            for number in range(first, first + 10)
            for one in ((f"{number}.png", content), (f"{number}.txt", b"words"))
        ]
        test_webdataset.write(folder / f"{first:03d}.tar", files)
    return DatasetConfig("webdataset", {"paths": "*.tar", "dataset": "d"})


def arrayrecord(folder, count: int) -> DatasetConfig:
    content = tiny.image_file(0)
    content += bytes(20_000 - len(content))
    for first in range(0, count, 10):
        examples = [Style("d").example(str(n), "What?", "It.", [content]) for n in range(first, first + 10)]
        write(folder / f"{first:03d}.array_record", map(encode_example, examples))
    return DatasetConfig("arrayrecord", {"paths": "*.array_record"})


@pytest.mark.parametrize("make", [webdataset, arrayrecord])
def test_each_host_reads_the_records_of_its_own_shards_alone(make, bucket, bucket_server, tmp_path):
    (tmp_path / "set").mkdir()
    dataset = make(tmp_path / "set", 160)
    upload_folder(tmp_path / "set", bucket)
    dataset.options["paths"] = f"{bucket}/{dataset.options['paths']}"
    config = corpora.config({"x": dataset}, shards=2, prefetch=1)
    Pipeline(config, corpora.IMAGE_SIZE, corpora.TOKENS_PER_IMAGE)  # an index is there from now on
    read = []
    for number in range(2):
        pipeline = Pipeline(config, corpora.IMAGE_SIZE, corpora.TOKENS_PER_IMAGE, (number, 2))
        bucket_server.ranges.clear()
        try:
            batches = [next(pipeline) for _ in range(2)]
        finally:
            pipeline.close()
        assert all(batch.num_images for batch in batches)
        read.append(set(bucket_server.ranges))
    assert len(read[0]) > 10
    assert len(read[1]) > 10
    assert not read[0] & read[1], "no record is read by both"
    assert all(last - first < 22_000 for _, first, last in read[0] | read[1]), "a record at a time"


def test_shards_are_read_once_where_a_cache_has_room(bucket, bucket_server, tmp_path, monkeypatch):
    monkeypatch.setenv(bucket_files.BOUND, "0.01")
    (tmp_path / "set").mkdir()
    webdataset(tmp_path / "set", 10)
    upload_folder(tmp_path / "set", bucket)
    first = WebDatasetSource(f"{bucket}/*.tar", dataset="d")
    examples = [first[index] for index in range(10)]
    bucket_server.ranges.clear()
    again = WebDatasetSource(f"{bucket}/*.tar", dataset="d")
    assert [again[index] for index in range(10)] == examples
    assert bucket_server.ranges == []
    (bucket / "000.tar").write_bytes((tmp_path / "set" / "000.tar").read_bytes().replace(b"words", b"WORDS"))
    assert WebDatasetSource(f"{bucket}/*.tar", dataset="d")[0]["answer"] == "WORDS"


def test_a_store_that_stays_away_ends_the_reading_and_rejects_no_record(
    bucket, bucket_server, tmp_path, monkeypatch
):
    async def no_pause(seconds):
        return None

    (tmp_path / "set").mkdir()
    webdataset(tmp_path / "set", 10)
    set_of_images(tmp_path / "set", 10)
    upload_folder(tmp_path / "set", bucket)
    shards = DatasetConfig("webdataset", {"paths": f"{bucket}/*.tar", "dataset": "d"})
    for dataset in (shards, corpora.llava(bucket / "data.json")):
        bucket_server.fail = lambda method, path: None
        pipeline = Pipeline(
            corpora.config({"x": dataset}, shards=1), corpora.IMAGE_SIZE, corpora.TOKENS_PER_IMAGE
        )
        monkeypatch.setattr("gcsfs.retry.asyncio.sleep", no_pause)
        bucket_server.fail = lambda method, path: 503 if "alt=media" in path else None
        with pytest.raises(StoreError, match="the bucket's store does not answer as it should"):
            next(pipeline)
        pipeline.close()


def test_images_of_a_store_that_answers_late_wait_for_each_other_no_longer(bucket, bucket_server, tmp_path):
    """One after the other they would take 20 ms each."""
    (tmp_path / "set").mkdir()
    set_of_images(tmp_path / "set", 160)
    upload_folder(tmp_path / "set", bucket)
    config = corpora.config({"x": corpora.llava(bucket / "data.json")}, shards=1)
    open_now, most, lock = [0], [0], threading.Lock()

    def fail(method, path):
        with lock:
            open_now[0] += 1
            most[0] = max(most[0], open_now[0])
        time.sleep(0.02)
        with lock:
            open_now[0] -= 1

    pipeline = Pipeline(config, corpora.IMAGE_SIZE, corpora.TOKENS_PER_IMAGE)
    bucket_server.fail = fail
    try:
        next(pipeline)
    finally:
        pipeline.close()
    assert most[0] >= 8
