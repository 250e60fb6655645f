from __future__ import annotations

import io

import pytest

from owl2_jax.core import buckets
from owl2_jax.core.buckets import StoreError
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data import bucket_reads, images
from owl2_jax.data.bucket_cache import BOUND, FOLDER
from owl2_jax.data.bucket_reads import (
    RangeFile,
    in_order_of_host,
    objects_of,
    of_host,
    read_object,
    read_range,
)


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """A cache with a size."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    monkeypatch.setenv(BOUND, "0.001")


def contents_asked_for(server) -> int:
    return sum("alt=media" in path for _, path in server.requests)


def test_an_object_is_read_once_and_again_when_it_was_written_again(bucket, bucket_server, kept):
    url = str(bucket / "a.png")
    (bucket / "a.png").write_bytes(b"one")
    bucket_server.requests.clear()
    assert [read_object(url) for _ in range(3)] == [b"one"] * 3
    assert contents_asked_for(bucket_server) == 1
    (bucket / "a.png").write_bytes(b"two")
    assert read_object(url) == b"two"


def test_without_a_size_an_object_is_asked_for_each_time_by_one_request(bucket, bucket_server, monkeypatch):
    monkeypatch.delenv(BOUND, raising=False)
    (bucket / "a.png").write_bytes(b"one")
    bucket_server.requests.clear()
    assert [read_object(str(bucket / "a.png")) for _ in range(2)] == [b"one"] * 2
    assert len(bucket_server.requests) == contents_asked_for(bucket_server) == 2


def test_parts_of_an_object_are_kept(bucket, bucket_server, kept):
    url = str(bucket / "a.tar")
    (bucket / "a.tar").write_bytes(bytes(range(100)))
    version = objects_of([url, "here.tar"])[url][1]
    bucket_server.requests.clear()
    assert [read_range(url, version, 10, 5) for _ in range(2)] == [bytes(range(10, 15))] * 2
    assert contents_asked_for(bucket_server) == 1
    assert read_range(url, version, 95, 20) == bytes(range(95, 100))
    assert read_range(url, "another", 10, 5) == bytes(range(10, 15))
    assert contents_asked_for(bucket_server) == 3


def test_content_that_arrives_damaged_is_asked_for_again(bucket, kept, monkeypatch):
    url = str(bucket / "a.png")
    (bucket / "a.png").write_bytes(b"whole")
    arriving, read = iter([b"whol", b"wHole"]), buckets.read
    monkeypatch.setattr(buckets, "read", lambda url: next(arriving, None) or read(url))
    assert read_object(url) == b"whole"
    monkeypatch.setattr(buckets, "read", lambda url: b"wHole")
    (bucket / "a.png").write_bytes(b"Whole")
    with pytest.raises(Owl2Error, match=r"a.png arrived damaged 3 times: its checksum is another"):
        read_object(url)


@pytest.mark.parametrize("size", ["0.001", None])
def test_what_is_missing_is_a_missing_file(bucket, monkeypatch, tmp_path, size):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv(BOUND, size) if size else monkeypatch.delenv(BOUND, raising=False)
    with pytest.raises(FileNotFoundError):
        read_object(str(bucket / "none.png"))
    with pytest.raises(images.ImageError) as caught:
        images.read_file(str(bucket / "none.png"))
    assert caught.value.reason == "missing"


def test_a_store_that_knows_no_credentials_is_no_fault_of_an_image(bucket, bucket_server):
    (bucket / "a.png").write_bytes(b"one")
    bucket_server.fail = lambda method, path: 401
    with pytest.raises(StoreError, match="no valid credentials"):
        images.read_file(str(bucket / "a.png"))
    bucket_server.fail = lambda method, path: 403
    with pytest.raises(images.ImageError, match="this account may not do that") as caught:
        images.read_file(str(bucket / "a.png"))
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize(
    ("host", "count", "order"), [(0, 1, [0, 1, 2, 3, 4]), (0, 2, [0, 1, 4, 3, 2]), (1, 2, [2, 3, 4, 1, 0])]
)
def test_a_host_begins_with_its_own_part_and_then_meets_the_others(host, count, order):
    with of_host(host, count):
        assert in_order_of_host(5) == order
    assert in_order_of_host(2) == [0, 1]


def test_an_object_is_a_file_of_its_parts(bucket):
    content = bytes(range(200))
    (bucket / "a.bin").write_bytes(content)
    file = RangeFile(str(bucket / "a.bin"), "1", 200)
    assert file.read(3) == content[:3]
    assert file.seek(-10, io.SEEK_END) == 190
    assert file.read() == content[190:]
    assert file.read(5) == b""
    file.seek(100)
    assert file.seek(-50, io.SEEK_CUR) == file.tell() == 50
    assert file.read(2) == content[50:52]
    assert bucket_reads.TRIES == 3
