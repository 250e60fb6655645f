"""A bucket whose store fails now and then, or for good."""

from __future__ import annotations

import itertools

import pytest

from owl2_jax.core import buckets, file_writing, large_objects, text_files
from owl2_jax.core.append_file import AppendFile, read_whole_lines
from owl2_jax.core.errors import Owl2Error


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Retries without their pauses."""
    import gcsfs.retry

    async def no_pause(seconds):
        return None

    monkeypatch.setattr(gcsfs.retry.asyncio, "sleep", no_pause)


def some(fault: int | str, every: int = 3):
    """Every third request fails."""
    count = itertools.count()
    return lambda method, path: fault if next(count) % every == 0 else None


@pytest.mark.parametrize("fault", [429, 500, 503, "reset", "cut"])
def test_what_fails_now_and_then_is_tried_again(any_bucket, any_server, fault):
    bucket = any_bucket
    any_server.fail = some(fault)
    content = bytes(range(256)) * 40
    for number in range(4):
        file_writing.write_bytes(bucket / f"{number}.bin", content + bytes([number]))
    found = [text_files.read_bytes(bucket / f"{number}.bin") for number in range(4)]
    assert found == [content + bytes([number]) for number in range(4)]


@pytest.mark.parametrize("fault", [429, 503, "reset"])
def test_a_store_that_stays_away_is_told_in_one_line(any_bucket, any_server, fault):
    bucket = any_bucket
    file_writing.write_bytes(bucket / "a.bin", b"1")
    any_server.fail = lambda method, path: fault
    for action in (text_files.read_bytes, lambda path: file_writing.write_bytes(path, b"2")):
        with pytest.raises(Owl2Error) as caught:
            action(bucket / "a.bin")
        assert str(caught.value).startswith(f"{bucket / 'a.bin'}: the bucket's store does not answer")
        assert "\n" not in str(caught.value)


def test_a_reading_that_could_not_be_written_is_there_once_the_store_is_back(
    bucket, bucket_server, monkeypatch, capsys
):
    monkeypatch.setattr(buckets, "_SECONDS", 0.0)
    monkeypatch.setattr(buckets, "_SHARE", 0)
    with AppendFile(bucket / "metrics.jsonl") as file:
        bucket_server.fail = lambda method, path: 503
        file.write_json({"step": 1})
        assert "metrics.jsonl: the bucket's store does not answer as it should" in capsys.readouterr().err
        bucket_server.fail = lambda method, path: None
        file.write_json({"step": 2})
    assert read_whole_lines(bucket / "metrics.jsonl") == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("fault", [429, 503, "reset", "cut"])
def test_large_objects_are_read_and_written_through_faults(any_bucket, any_server, fault, monkeypatch):
    bucket = any_bucket
    monkeypatch.setattr(large_objects, "_PIECE", 3000)
    part = 1 << 18 if str(bucket).startswith("gs:") else 5 << 20  # of S3 the smallest
    monkeypatch.setattr(large_objects, "_PART", part)
    faults = some(fault, every=4)
    # The emulator forgets an upload that is over, whose last answer Google's store would give again.
    any_server.fail = lambda method, path: (
        None if fault == "cut" and method != "GET" else faults(method, path)
    )
    content = bytes(range(256)) * (part // 100)
    with large_objects.written(bucket / "a.bin") as file:
        file.write(content)
    assert large_objects.read_at(bucket / "a.bin", 100, 20000).tobytes() == content[100:20100]
    with large_objects.opened(bucket / "a.bin") as file:
        file.seek(-10, 2)
        assert file.read() == content[-10:]


def test_a_store_that_answers_late_is_waited_for(any_bucket, any_server, monkeypatch):
    bucket = any_bucket
    monkeypatch.setattr(large_objects, "_PIECE", 1000)
    (bucket / "a.bin").write_bytes(bytes(range(250)) * 40)
    any_server.delay = 0.05
    assert large_objects.read_at(bucket / "a.bin", 0, 10000).tobytes() == bytes(range(250)) * 40
