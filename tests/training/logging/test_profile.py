from __future__ import annotations

import tempfile

import jax.numpy as jnp
import pytest

from owl2_jax.core.buckets import AwayError, files_below
from owl2_jax.core.errors import Owl2Error
from owl2_jax.training.logging import profile as module
from owl2_jax.training.logging.profile import PROFILE_DIR, Profile


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary ones."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def trace(run) -> None:
    with Profile(run, (1, 1)) as profile:
        profile.before(1)
        profile.after(1, jnp.ones(2) + 1)


def test_a_trace_of_a_run_in_a_bucket_is_put_there(bucket, temporary):
    trace(bucket)
    names = [str(file) for file in files_below(bucket / PROFILE_DIR)]
    assert any(name.endswith(".xplane.pb") for name in names)
    assert list(temporary.iterdir()) == []


def test_no_folder_is_made_for_steps_that_never_come(temporary):
    with Profile(module.Path("gs://bucket/run"), (5, 6)) as profile:
        profile.before(1)
        assert list(temporary.iterdir()) == []


def fail(monkeypatch, error: Exception) -> None:
    class Profiler:
        start_trace = staticmethod(lambda folder: None)
        stop_trace = staticmethod(lambda: None)

    def upload(source, target):
        raise error

    monkeypatch.setattr(module.jax, "profiler", Profiler)
    monkeypatch.setattr(module, "in_bucket", lambda path: True)
    monkeypatch.setattr(module, "upload_folder", upload)


def test_a_trace_that_is_refused_leaves_no_folder(tmp_path_factory, temporary, monkeypatch):
    fail(monkeypatch, Owl2Error("this account may not do that"))
    with pytest.raises(Owl2Error, match="may not"):
        trace(tmp_path_factory.mktemp("run"))
    assert list(temporary.iterdir()) == []


def test_a_trace_of_a_run_that_fails_leaves_no_folder(tmp_path_factory, temporary, monkeypatch):
    fail(monkeypatch, Owl2Error("this account may not do that"))
    with pytest.raises(ZeroDivisionError), Profile(tmp_path_factory.mktemp("run"), (1, 3)) as profile:
        profile.after(1 // (profile.before(1) is not None), None)
    assert list(temporary.iterdir()) == []


def test_a_trace_for_a_store_that_is_away_stays_where_the_warning_says(
    tmp_path_factory, temporary, monkeypatch, capsys
):
    fail(monkeypatch, AwayError("the store does not answer"))
    trace(tmp_path_factory.mktemp("run"))
    (kept,) = temporary.iterdir()
    assert capsys.readouterr().err == f"warning: the profile stays in {kept}: the store does not answer\n"
