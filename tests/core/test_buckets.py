from __future__ import annotations

import pytest

from owl2_jax.core import append_file, buckets, file_writing, json_files, text_files
from owl2_jax.core.append_file import AppendFile
from owl2_jax.core.errors import Owl2Error


def test_text_and_json_are_written_whole_and_read_back(any_bucket):
    file_writing.write_text(any_bucket / "a.txt", "\u00e9\n")
    json_files.write_json(any_bucket / "b.json", {"x": 1})
    with file_writing.new_file(any_bucket / "c.bin") as local:
        local.write_bytes(b"123")
    assert text_files.read_text(any_bucket / "a.txt") == "\u00e9\n"
    assert json_files.read_json(str(any_bucket / "b.json")) == {"x": 1}
    assert text_files.read_bytes(any_bucket / "c.bin") == b"123"
    assert sorted(path.name for path in any_bucket.iterdir()) == ["a.txt", "b.json", "c.bin"]


def test_files_come_back_as_they_were_whatever_they_end_in(any_bucket, tmp_path):
    contents = {
        str(number): b"abc" + end for number, end in enumerate((b"\r", b"\n", b"\r\n", b"\n\r", b"\0"))
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    buckets.upload_folder(tmp_path, any_bucket)
    assert {path.name: path.read_bytes() for path in any_bucket.iterdir()} == contents


def test_what_fails_in_a_block_leaves_no_object(any_bucket):
    with pytest.raises(ZeroDivisionError), file_writing.new_file(any_bucket / "c.bin") as local:
        local.write_bytes(bytes([1 // 0]))
    assert not (any_bucket / "c.bin").exists()


def test_a_missing_object_is_told_with_the_nearest_name(any_bucket):
    file_writing.write_text(any_bucket / "config.json", "{}")
    with pytest.raises(Owl2Error, match=r"confg.json is missing; there is config.json"):
        text_files.read_bytes(any_bucket / "confg.json")


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_missing_bucket_is_told_at_start(scheme, s3_server):
    with pytest.raises(Owl2Error) as caught:
        file_writing.check_folder(f"{scheme}://nowhere/run", "--workdir")
    assert str(caught.value) == (
        f"--workdir {scheme}://nowhere/run is not there: no such bucket, or no such object in it"
    )


def test_a_folder_is_checked_by_writing_and_is_left_as_it_was(any_bucket):
    file_writing.check_folder(any_bucket, "--workdir")
    file_writing.check_file(any_bucket / "a.html", "--output")
    assert not any_bucket.exists()


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


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AccessDenied", "this account may not do that (s3:ListBucket on it, and s3:GetObject"),
        ("ExpiredToken", "there are no valid credentials (old); run `aws sso login`"),
        ("InvalidAccessKeyId", "there are no valid credentials"),
        ("SlowDown", "the bucket's store does not answer as it should"),
    ],
)
def test_what_amazons_store_refuses_is_told_with_what_to_do(code, words):
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    answer = {"Error": {"Code": code, "Message": "old"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    told = buckets.why_not("s3://b/x", translate_boto_error(ClientError(answer, "PutObject")))
    assert told.startswith(f"s3://b/x: {words}")


def test_no_credentials_at_all_are_told_with_what_to_do():
    from botocore.exceptions import NoCredentialsError

    told = buckets.why_not("s3://b/x", NoCredentialsError())
    assert told.startswith(
        "s3://b/x: there are no valid credentials (Unable to locate credentials); run `aws"
    )


def test_tensorstore_is_led_to_the_store_that_the_variables_name(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://host:1")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    place = {"bucket": "b", "path": "a/run/"}
    assert buckets.key_values("gs://b/a/run") == {"driver": "gcs", **place}
    found = buckets.key_values("s3://b/a/run")
    assert found == {"driver": "s3", **place, "endpoint": "http://host:1", "aws_region": "eu-west-1"}
