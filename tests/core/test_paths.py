from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from owl2_jax.core import fields, paths
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.texts import BucketPath, FilePath

BUCKETS = "a path of this machine, gs://BUCKET/NAME or s3://BUCKET/NAME"


@pytest.fixture
def without_extras(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.fixture
def with_extras(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


@pytest.mark.parametrize("text", ["runs/a", "/a/b", "./gs:/a", "a:b", "stage2.py:size=3", "a/gs://b", ""])
def test_paths_of_this_machine_have_no_scheme(text):
    assert paths.scheme_of(text) is None
    assert paths.expected_path(text, buckets=False) is None
    assert paths.as_path(text) == Path(text)
    assert not paths.in_bucket(text)


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_url_becomes_a_path_in_its_bucket(scheme, with_extras):
    path = paths.as_path(f"{scheme}://bucket/run") / "model.json"
    assert str(path) == f"{scheme}://bucket/run/model.json"
    assert str(path.parent) == f"{scheme}://bucket/run"
    assert paths.in_bucket(path)
    assert paths.as_path(path) == path


@pytest.mark.parametrize(("scheme", "extra"), [("gs", "gcs"), ("s3", "s3")])
def test_a_bucket_without_its_packages_names_the_extra(scheme, extra, without_extras):
    message = (
        f"expected a path of this machine, as {scheme}:// needs the extra {extra} "
        f"(run `pip install 'owl2_jax[{extra}]'`), found '{scheme}://b/x'"
    )
    with pytest.raises(Owl2Error) as caught:
        fields.check_value(BucketPath, f"{scheme}://b/x", "path")
    assert str(caught.value) == f"path: {message}"
    with pytest.raises(Owl2Error) as caught:
        paths.as_path(f"{scheme}://b/x")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gs:/b/x", "gs://BUCKET/NAME"),
        ("gs:b", "gs://BUCKET/NAME"),
        ("GS://b/x", "gs://BUCKET/NAME"),
        ("gs:///x", "gs://BUCKET/NAME"),
        ("s3:/b/x", "s3://BUCKET/NAME"),
        ("S3://b/x", "s3://BUCKET/NAME"),
        ("gcs://b/x", f"{BUCKETS} (did you mean gs://?)"),
        ("s3a://b/x", f"{BUCKETS} (did you mean s3://?)"),
        ("hdfs://b/x", BUCKETS),
        ("file:///a/b", "a path without its scheme, as /a/b"),
        ("https://host/a", "a path of this machine (fetch the file first)"),
    ],
)
def test_what_is_no_url_of_a_bucket_is_refused_by_name(text, expected, with_extras):
    with pytest.raises(Owl2Error) as caught:
        fields.check_value(BucketPath, text, "path")
    assert str(caught.value) == f"path: expected {expected}, found {text!r}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gs://b/x", "a path of this machine (copy it with `gcloud storage cp -r`)"),
        ("s3://b/x", "a path of this machine (copy it with `aws s3 cp --recursive`)"),
        ("hdfs://b/x", "a path of this machine"),
    ],
)
def test_where_no_bucket_can_be_every_url_is_refused(text, expected, with_extras):
    message = f"path: expected {expected}, found {text!r}"
    with pytest.raises(Owl2Error) as caught:
        fields.check_value(FilePath, text, "path")
    assert str(caught.value) == message
    with pytest.raises(Owl2Error) as caught:
        paths.refuse_url(text, "path")
    assert str(caught.value) == message


def test_a_path_object_that_was_made_of_a_url_is_refused():
    with pytest.raises(Owl2Error, match="here: expected a path of this machine"):
        fields.check_value(Path, Path("gs://bucket/x"), "here")


def test_buckets_are_read_without_what_asks_for_more_rights_though_gcsfs_was_imported_before():
    script = (
        "import gcsfs, fsspec\n"
        "from owl2_jax.core.paths import as_path\n"
        "as_path('gs://bucket/x')\n"
        "print({fsspec.get_filesystem_class(name).__module__ for name in ('gs', 'gcs')})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["{'gcsfs.core'}"]
