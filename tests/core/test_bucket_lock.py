from __future__ import annotations

import json
import time

import pytest

from owl2_jax.core import bucket_lock, lock_holders, locks
from owl2_jax.core.errors import Owl2Error


def holder(bucket) -> dict:
    return json.loads((bucket / "owl2.lock").read_bytes())


def test_the_second_writer_is_told_who_is_there(any_bucket):
    with locks.locked(any_bucket / "owl2.lock", "--workdir runs/a"):
        with pytest.raises(locks.LockedError, match=r"--workdir runs/a is in use: host .*, process \d+"):
            locks.take(any_bucket / "owl2.lock", "--workdir runs/a")
        with pytest.raises(locks.LockedError):
            locks.refuse_held(any_bucket / "owl2.lock", "x")
    assert not (any_bucket / "owl2.lock").exists()
    locks.refuse_held(any_bucket / "owl2.lock", "x")
    locks.take(any_bucket / "owl2.lock", "x").release()


def test_the_lock_of_a_dead_process_of_this_machine_is_taken_over_at_once(any_bucket):
    locks.take(any_bucket / "owl2.lock", "x")._ended.set()
    (any_bucket / "owl2.lock").write_text(
        json.dumps({**holder(any_bucket), "processes": {"1": "0"}, "token": "t"})
    )
    with locks.locked(any_bucket / "owl2.lock", "x"):
        assert holder(any_bucket)["token"] != "t"
    assert not (any_bucket / "owl2.lock").exists()


def test_the_lock_of_a_silent_holder_elsewhere_is_taken_over_after_a_while(bucket, monkeypatch, capsys):
    monkeypatch.setattr(bucket_lock, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(bucket_lock, "_POLL_SECONDS", 0.1)
    locks.take(bucket / "owl2.lock", "x")._ended.set()
    elsewhere = {**holder(bucket), "place": "elsewhere", "host": "node7", "token": "t"}
    (bucket / "owl2.lock").write_text(json.dumps(elsewhere))
    start = time.monotonic()
    with locks.locked(bucket / "owl2.lock", "the run"):
        assert time.monotonic() - start > 0.3
    assert capsys.readouterr().err.count("the run is in use or was left behind: host node7") == 1


def test_a_holder_elsewhere_that_beats_keeps_its_lock(bucket, monkeypatch):
    monkeypatch.setattr(bucket_lock, "_POLL_SECONDS", 0.1)
    monkeypatch.setattr(bucket_lock, "BEAT_SECONDS", 0.05)
    lock = locks.take(bucket / "owl2.lock", "x")
    lock._holder = locks.Holder(**{**vars(lock._holder), "place": "elsewhere", "host": "node7"})
    lock._write()
    with pytest.raises(locks.LockedError, match="host node7"):
        locks.take(bucket / "owl2.lock", "x")
    lock.release()


def test_whoever_lost_the_lock_ends_at_the_next_beat(any_bucket, monkeypatch):
    class Ended(BaseException):
        pass

    def end(error):
        raise Ended(str(error))

    lock = locks.take(any_bucket / "owl2.lock", "x")
    (any_bucket / "owl2.lock").write_text(json.dumps({**holder(any_bucket), "token": "another"}))
    monkeypatch.setattr(lock_holders, "end_lost", end)
    with pytest.raises(Ended, match=r"owl2.lock was taken over by another process \(host .*, process \d+"):
        lock._write()
    lock.release()
    assert holder(any_bucket)["token"] == "another", "who holds it now keeps it"


@pytest.mark.parametrize("what", ["removed", "spoilt", "an answer got lost"])
def test_an_object_that_nobody_else_holds_is_written_again(bucket, monkeypatch, what):
    def fail(error):
        raise AssertionError(error)

    monkeypatch.setattr(lock_holders, "end_lost", fail)
    with locks.locked(bucket / "owl2.lock", "x") as lock:
        token, first = holder(bucket)["token"], lock._generation
        lock._write()
        if what == "removed":
            (bucket / "owl2.lock").unlink()
        elif what == "spoilt":
            (bucket / "owl2.lock").write_text("edited")
        else:
            lock._generation = first
        lock._write()
        lock._write()
        assert holder(bucket)["token"] == token
        with pytest.raises(locks.LockedError):
            locks.take(bucket / "owl2.lock", "x")
    assert not (bucket / "owl2.lock").exists()


def test_one_that_is_gone_after_a_long_silence_is_lost(bucket, monkeypatch):
    class Ended(BaseException):
        pass

    def end(error):
        raise Ended(str(error))

    lock = locks.take(bucket / "owl2.lock", "x")
    monkeypatch.setattr(lock_holders, "end_lost", end)
    lock._last -= bucket_lock.STALE_SECONDS + 1
    (bucket / "owl2.lock").unlink()
    with pytest.raises(Ended, match=r"owl2.lock is not this process's any more: it was removed"):
        lock._write()
    lock.release()


def test_a_lock_in_a_missing_bucket_is_told():
    with pytest.raises(Owl2Error, match=r"gs://nowhere/owl2.lock"):
        locks.take("gs://nowhere/owl2.lock", "x")
