from __future__ import annotations

import json

import pytest

from owl2_jax.core import append_file, buckets, file_writing, json_files, text_files
from owl2_jax.core.append_file import AppendFile
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.paths import as_path


def test_text_and_json_are_written_whole_and_read_back(bucket):
    file_writing.write_text(bucket / "a.txt", "\u00e9\n")
    json_files.write_json(bucket / "b.json", {"x": 1})
    with file_writing.new_file(bucket / "c.bin") as local:
        local.write_bytes(b"123")
    assert text_files.read_text(bucket / "a.txt") == "\u00e9\n"
    assert json_files.read_json(str(bucket / "b.json")) == {"x": 1}
    assert text_files.read_bytes(bucket / "c.bin") == b"123"
    assert sorted(path.name for path in bucket.iterdir()) == ["a.txt", "b.json", "c.bin"]


def test_what_fails_in_a_block_leaves_no_object(bucket):
    with pytest.raises(ZeroDivisionError), file_writing.new_file(bucket / "c.bin") as local:
        local.write_bytes(bytes([1 // 0]))
    assert not (bucket / "c.bin").exists()


def test_a_missing_object_is_told_with_the_nearest_name(bucket):
    file_writing.write_text(bucket / "config.json", "{}")
    with pytest.raises(Owl2Error, match=r"confg.json is missing; there is config.json"):
        text_files.read_bytes(bucket / "confg.json")


def test_a_missing_bucket_is_told_at_start():
    with pytest.raises(Owl2Error) as caught:
        file_writing.check_folder("gs://nowhere/run", "--workdir")
    assert str(caught.value) == (
        "--workdir gs://nowhere/run is not there: no such bucket, or no such object in it"
    )


def test_a_folder_is_checked_by_writing_and_is_left_as_it_was(bucket):
    file_writing.check_folder(bucket, "--workdir")
    file_writing.check_file(bucket / "a.html", "--output")
    assert not bucket.exists()


@pytest.mark.parametrize(
    ("status", "words"),
    [(403, "this account may not do that (roles/storage.objectUser would"), (401, "no valid credentials")],
)
def test_refused_credentials_are_told_with_what_to_do(bucket, bucket_server, status, words):
    bucket_server.fail = lambda method, path: status
    with pytest.raises(Owl2Error) as caught:
        file_writing.check_folder(bucket, "--workdir")
    assert str(caught.value).startswith("--workdir gs://bucket/")
    assert words in str(caught.value)


def test_records_are_in_the_bucket_at_intervals_at_a_flush_and_at_the_end(bucket, monkeypatch):
    monkeypatch.setattr(buckets, "_SECONDS", 1000.0)
    path = bucket / "metrics.jsonl"
    with AppendFile(path) as file:
        file.write_json({"step": 1})
        assert not path.exists()
        file.flush()
        assert append_file.read_whole_lines(path) == [{"step": 1}]
        file.write_json({"step": 2})
    assert append_file.read_whole_lines(path) == [{"step": 1}, {"step": 2}]
    monkeypatch.setattr(buckets, "_SECONDS", 0.0)
    monkeypatch.setattr(buckets, "_SHARE", 0)
    with AppendFile(path) as file:
        file.write_json({"step": 3})
        assert append_file.read_whole_lines(path)[-1] == {"step": 3}
    assert append_file.read_whole_lines(bucket / "none.jsonl") == []


def test_of_two_writers_on_a_condition_the_first_wins(bucket):
    one, other = buckets.ConditionalObject(bucket / "o"), buckets.ConditionalObject(bucket / "o")
    seen = one.read()
    assert seen.content is None
    assert other.read().generation == seen.generation
    written = one.write(b"1", seen.generation)
    assert written is not None
    assert other.write(b"2", seen.generation) is None
    assert other.read() == (b"1", written)
    assert other.write(None, written) is not None
    assert one.write(b"3", written) is None
    assert json.dumps([p.name for p in as_path(bucket).parent.iterdir() if p == bucket]) == "[]"


def test_an_error_of_a_store_that_escapes_is_one_line(monkeypatch, capsys):
    from gcsfs.retry import HttpError

    from owl2_jax.cli import main as command

    def fail(arguments):
        raise HttpError({"code": 403, "message": "no\nrights"})

    monkeypatch.setattr(command, "_run", fail)
    assert command.main(["train"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: a bucket: this account may not do that")
    assert error.count("\n") == 1
    monkeypatch.setattr(command, "_run", lambda arguments: [].pop())
    with pytest.raises(IndexError):
        command.main(["train"])
