from __future__ import annotations

import logging

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.bucket_reads import of_host
from owl2_jax.data.sources import webdataset_index
from owl2_jax.data.sources.webdataset import WebDatasetSource
from tests.data.sources.test_webdataset import members, write


def test_index_is_built_once_and_again_when_a_shard_changes(tmp_path, monkeypatch):
    path = write(tmp_path / "00000.tar", members(0, 2))
    WebDatasetSource(path, dataset="d")
    monkeypatch.setattr(
        webdataset_index, "build_index", lambda paths: pytest.fail("the index was built twice")
    )
    assert len(WebDatasetSource(path, dataset="d")) == 2
    monkeypatch.undo()
    write(path, members(0, 5))
    assert len(WebDatasetSource(path, dataset="d")) == 5


def test_index_goes_to_its_folder_and_nothing_else_is_left(tmp_path):
    shards, index = tmp_path / "shards", tmp_path / "index"
    shards.mkdir(), index.mkdir()
    write(shards / "00000.tar", members(0, 2))
    WebDatasetSource(shards / "*.tar", dataset="d", index_folder=index)
    assert [path.name for path in shards.iterdir()] == ["00000.tar"]
    assert [path.suffix for path in index.iterdir()] == [".npy"]


def test_unwritable_index_folder_says_what_to_set(tmp_path):
    path = write(tmp_path / "00000.tar", members(0, 1))
    for folder in (tmp_path / "missing", path):
        with pytest.raises(Owl2Error, match="set index_folder"):
            WebDatasetSource(path, dataset="d", index_folder=folder)


def test_damaged_index_is_named(tmp_path):
    WebDatasetSource(write(tmp_path / "00000.tar", members(0, 2)), dataset="d")
    (index,) = tmp_path.glob("owl2_index_*.npy")
    index.write_bytes(index.read_bytes()[:50])
    with pytest.raises(Owl2Error, match="delete it"):
        WebDatasetSource(tmp_path / "00000.tar", dataset="d")


@pytest.fixture
def shards(bucket, tmp_path):
    """URLs of four shards of three samples."""
    for number in range(4):
        file = write(tmp_path / f"{number}.tar", members(3 * number, 3))
        (bucket / file.name).write_bytes(file.read_bytes())
    return [f"{bucket}/{number}.tar" for number in range(4)]


@pytest.fixture
def looked_through(monkeypatch):
    """The shards whose headers were read so far."""
    found, build = [], webdataset_index.build_index
    monkeypatch.setattr(webdataset_index, "build_index", lambda paths: (found.extend(paths), build(paths))[1])
    return found


def test_the_index_of_a_shard_in_a_bucket_lies_beside_it_and_is_built_once(shards, bucket, looked_through):
    first = WebDatasetSource(f"{bucket}/*.tar", dataset="d")
    assert sorted(looked_through) == shards
    assert len([path for path in bucket.iterdir() if path.name.startswith("2.tar.owl2_index_")]) == 1
    second = WebDatasetSource(f"{bucket}/*.tar", dataset="d")
    assert len(looked_through) == 4
    assert [second[index] for index in range(12)] == [first[index] for index in range(12)]
    (bucket / "1.tar").write_bytes((bucket / "2.tar").read_bytes())
    assert WebDatasetSource(f"{bucket}/*.tar", dataset="d")[3]["answer"] == "caption 6"
    assert looked_through[4:] == [shards[1]]


def test_hosts_that_start_together_look_through_each_shard_once(shards, bucket, looked_through, monkeypatch):
    monkeypatch.setattr(webdataset_index, "_TOGETHER", 1)
    with of_host(1, 2):
        WebDatasetSource(shards[2:], dataset="d")  # as far as the other host came
        looked_through.clear()
    with of_host(0, 2):
        WebDatasetSource(f"{bucket}/*.tar", dataset="d")
    assert looked_through == shards[:2]


def test_an_index_that_cannot_be_kept_is_told_and_a_damaged_one_is_built_again(
    shards, bucket, bucket_server, looked_through, caplog
):
    bucket_server.fail = lambda method, path: 403 if method in ("POST", "PUT") else None
    with caplog.at_level(logging.WARNING):
        assert len(WebDatasetSource(shards[:1], dataset="d")) == 3
    assert f"every host looks through {shards[0]} by itself, as its index cannot be kept" in caplog.text
    bucket_server.fail = lambda method, path: None
    WebDatasetSource(shards[:1], dataset="d")
    (index,) = [path for path in bucket.iterdir() if path.suffix == ".npy"]
    index.write_bytes(index.read_bytes()[:50])
    assert len(WebDatasetSource(shards[:1], dataset="d")) == 3
    assert len(looked_through) == 3


def test_a_cut_shard_in_a_bucket_is_refused_by_its_url(shards, bucket):
    (bucket / "0.tar").write_bytes((bucket / "1.tar").read_bytes()[:700])
    with pytest.raises(Owl2Error, match=f"{shards[0]} is cut off"):
        WebDatasetSource(shards, dataset="d")
    (bucket / "0.tar").write_bytes(b"<!DOCTYPE html><html>")
    with pytest.raises(Owl2Error, match=f"{shards[0]} is a web page"):
        WebDatasetSource(shards, dataset="d")
