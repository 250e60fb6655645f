"""Locks between real processes, a killed holder, and one that seems to be on another host."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from owl2_jax.core import lock_holders, locks
from owl2_jax.core.errors import Owl2Error

HOLD = """
import sys, time
from pathlib import Path
from owl2_jax.core.locks import locked
with locked(Path(sys.argv[1]), "the folder"):
    print("held", flush=True)
    time.sleep(120)
"""
# Takes the lock, and enters and leaves a section that nobody else may be in.
RACE = """
import sys, time, os
from pathlib import Path
from owl2_jax.core.locks import locked
path = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
with locked(path, "x", wait=lambda holder: True):
    inside = path.with_name("inside")
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
    time.sleep(0.02)
    inside.unlink()
print("done", flush=True)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds `tmp_path/lock`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def pretend(path: Path, **changes) -> None:
    """Changes what a lock file says."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def age(path: Path, seconds: float) -> None:
    stamp = path.stat().st_mtime - seconds
    os.utime(path, (stamp, stamp))


def test_the_second_process_is_told_who_holds_the_lock_and_since_when(tmp_path, holder):
    with pytest.raises(locks.LockedError) as caught:
        locks.take(tmp_path / "lock", "--workdir runs/a")
    host, number = json.loads((tmp_path / "lock").read_text())["host"], holder.pid
    assert re.fullmatch(
        rf"--workdir runs/a is in use: host {re.escape(host)}, process {number}, `-c .*lock`, since "
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4}\. Wait for it, stop it, or choose another place",
        str(caught.value),
    )


def test_the_lock_of_a_process_killed_by_signal_9_is_taken_over_at_once(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    before = time.monotonic()
    with locks.locked(tmp_path / "lock", "x"):
        assert time.monotonic() - before < 1
        assert list(json.loads((tmp_path / "lock").read_text())["processes"]) == [str(os.getpid())]
    assert os.listdir(tmp_path) == []


def test_a_killed_process_that_nobody_has_waited_for_counts_as_gone(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    locks.take(tmp_path / "lock", "x").release()


def test_a_process_number_used_again_is_another_process(tmp_path, holder):
    pretend(tmp_path / "lock", processes={str(os.getppid()): "1"})
    locks.take(tmp_path / "lock", "x").release()


def test_the_lock_is_released_by_an_error_inside_the_block(tmp_path):
    with pytest.raises(Owl2Error), locks.locked(tmp_path / "lock", "x"):
        raise Owl2Error("broken")
    assert os.listdir(tmp_path) == []


def test_two_threads_of_one_process_exclude_each_other(tmp_path):
    with locks.locked(tmp_path / "lock", "x"), pytest.raises(locks.LockedError):
        locks.take(tmp_path / "lock", "x")


def test_a_holder_on_another_host_that_gives_a_sign_of_life_keeps_its_lock(tmp_path, capsys):
    first = locks.take(tmp_path / "lock", "x")
    pretend(tmp_path / "lock", host="node7", place="node7 other", processes={"12": "34"})
    age(tmp_path / "lock", 10)
    threading.Timer(0.5, os.utime, [tmp_path / "lock"]).start()
    with pytest.raises(locks.LockedError, match="host node7, process 12"):
        locks.take(tmp_path / "lock", "the run")
    assert "Waiting up to 60 s for a sign of life" in capsys.readouterr().err
    first.release()


def test_a_holder_on_another_host_that_was_silent_for_too_long_is_taken_over(tmp_path):
    locks.take(tmp_path / "lock", "x")._ended.set()
    pretend(tmp_path / "lock", place="node7 other", token="other", processes={str(os.getpid()): "1"})
    age(tmp_path / "lock", locks.STALE_SECONDS + 1)
    mine = locks.take(tmp_path / "lock", "x")
    assert json.loads((tmp_path / "lock").read_text())["token"] != "other"
    mine.release()


def test_a_holder_on_another_host_that_falls_silent_is_waited_for_and_taken_over(tmp_path, monkeypatch):
    locks.take(tmp_path / "lock", "x").release()
    lock = locks.take(tmp_path / "lock", "x")
    lock._ended.set()  # its heart stops
    pretend(tmp_path / "lock", place="node7 other", token="other")
    monkeypatch.setattr(locks, "STALE_SECONDS", 1.5)
    before = time.monotonic()
    locks.take(tmp_path / "lock", "x").release()
    assert time.monotonic() - before > 1


def test_a_holder_on_another_host_that_dies_after_a_beat_is_taken_over(tmp_path, monkeypatch):
    locks.take(tmp_path / "lock", "x")._ended.set()
    pretend(tmp_path / "lock", host="node7", place="node7 other", token="other")
    monkeypatch.setattr(locks, "STALE_SECONDS", 1.0)
    before = time.monotonic()
    last_beat = threading.Timer(0.3, os.utime, [tmp_path / "lock"])
    rounds = []

    def wait(holder) -> bool:
        rounds.append(holder.host)
        return time.monotonic() - before < 30

    last_beat.start()
    locks.take(tmp_path / "lock", "x", wait).release()
    assert time.monotonic() - before > 1.3
    assert set(rounds) == {"node7"}


def test_a_holder_whose_touches_lie_in_the_future_is_watched_by_the_own_clock(tmp_path, monkeypatch):
    locks.take(tmp_path / "lock", "x")._ended.set()
    pretend(tmp_path / "lock", place="node7 other", token="other")
    age(tmp_path / "lock", -10_000)
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.5)
    locks.take(tmp_path / "lock", "x").release()


@pytest.mark.parametrize("content", ["of a foreign holder", ""], ids=["foreign", "empty"])
def test_who_waits_is_asked_also_while_it_is_unknown_whether_the_holder_lives(tmp_path, content):
    locks.take(tmp_path / "lock", "x")._ended.set()
    if content:
        pretend(tmp_path / "lock", place="node7 other", token="other")
    else:
        (tmp_path / "lock").write_text("")
    before = time.monotonic()
    words = "host .*" if content else "its lock file names nobody yet"
    with pytest.raises(locks.LockedError, match=f"x is in use: {words}. Wait for it"):
        locks.take(tmp_path / "lock", "x", wait=lambda holder: False)
    assert time.monotonic() - before < 30


def test_a_beat_beside_a_release_does_not_bring_the_lock_back(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.01)
    lock = locks.take(tmp_path / "lock", "x")
    create, entered, go, left = locks._create, threading.Event(), threading.Event(), threading.Event()

    def slow_create(*arguments) -> bool:
        entered.set()
        assert go.wait(30)
        made = create(*arguments)
        left.set()
        return made

    monkeypatch.setattr(locks, "_create", slow_create)
    (tmp_path / "lock").unlink()  # the beat makes it again
    assert entered.wait(30)
    releasing = threading.Thread(target=lock.release)
    releasing.start()
    releasing.join(0.2)  # as long as the beat has its turn, the release waits
    go.set()
    releasing.join(30)
    assert left.wait(30)
    assert os.listdir(tmp_path) == []


def test_the_age_is_told_by_the_clock_of_the_file_system(tmp_path, monkeypatch):
    locks.take(tmp_path / "lock", "x")._ended.set()
    pretend(tmp_path / "lock", place="node7 other", token="other")
    age(tmp_path / "lock", locks.STALE_SECONDS + 1)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 10_000)  # this host's clock is wrong
    locks.take(tmp_path / "lock", "x").release()


def test_the_heart_beats_while_the_lock_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.05)
    with locks.locked(tmp_path / "lock", "x"):
        age(tmp_path / "lock", 1000)
        old = (tmp_path / "lock").stat().st_mtime
        limit = time.monotonic() + 10
        while (tmp_path / "lock").stat().st_mtime == old:
            assert time.monotonic() < limit
            time.sleep(0.02)


def test_a_process_whose_lock_was_taken_over_ends_instead_of_writing_on(tmp_path):
    code = HOLD.replace(
        "from pathlib", "from owl2_jax.core import locks\nlocks.BEAT_SECONDS = 0.1\nfrom pathlib"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    content = json.loads((tmp_path / "lock").read_text())
    beside = tmp_path / "beside"
    beside.write_text(json.dumps({**content, "token": "other"}))
    beside.replace(tmp_path / "lock")
    _, said = process.communicate(timeout=30)
    assert process.returncode == lock_holders.LOST
    assert re.search(
        r"lock was taken over by another process \(host .*, process \d+, .*\): it was removed", said
    )
    assert (tmp_path / "lock").exists()


def test_a_lock_file_that_was_removed_by_hand_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.05)
    with locks.locked(tmp_path / "lock", "x"):
        (tmp_path / "lock").unlink()
        limit = time.monotonic() + 10
        while not (tmp_path / "lock").exists():
            assert time.monotonic() < limit
            time.sleep(0.02)


def test_a_shared_lock_lives_as_long_as_the_process_it_is_shared_with(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lock = locks.take(tmp_path / "lock", "x")
    lock.share(child.pid)
    values = json.loads((tmp_path / "lock").read_text())
    del values["processes"][str(os.getpid())]  # as if the first one had died
    pretend(tmp_path / "lock", processes=values["processes"])
    with pytest.raises(locks.LockedError, match=f"process {child.pid}"):
        locks.take(tmp_path / "lock", "x")
    child.communicate(b"\n")
    locks.take(tmp_path / "lock", "x").release()
    lock.release()


def test_a_lock_that_was_taken_over_is_not_shared(tmp_path):
    lock = locks.take(tmp_path / "lock", "x")
    pretend(tmp_path / "lock", token="other")
    with pytest.raises(locks.LockedError, match=r"lock was taken over by another process"):
        lock.share(os.getppid())
    lock._ended.set()
    assert json.loads((tmp_path / "lock").read_text())["token"] == "other"


def test_a_lock_on_a_full_disk_is_not_shared_and_that_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with locks.locked(tmp_path / "lock", "x") as lock:
        monkeypatch.setattr(locks, "_write_beside", full)
        with pytest.raises(Owl2Error, match=r"no space left while writing .*lock; make room"):
            lock.share(os.getppid())


def test_an_empty_lock_file_is_waited_for_and_taken_over_when_it_is_old(tmp_path):
    (tmp_path / "lock").touch()
    age(tmp_path / "lock", locks.STALE_SECONDS + 1)
    locks.take(tmp_path / "lock", "x").release()
    assert os.listdir(tmp_path) == []


def test_without_hard_links_the_file_is_made_exclusively(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with locks.locked(tmp_path / "lock", "x"):
        assert json.loads((tmp_path / "lock").read_text())["token"]
        with pytest.raises(locks.LockedError):
            locks.take(tmp_path / "lock", "x")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_a_file_is_told_in_one_line(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(Owl2Error, match="is a file, not a folder"):
        locks.take(tmp_path / "run" / "lock", "x")


def test_of_many_processes_that_find_one_dead_holder_one_at_a_time_has_the_lock(tmp_path, holder):
    holder.kill()
    holder.wait()
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path / "lock")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(6)
    ]  # fmt: skip
    for rival in rivals:
        assert rival.stdout.readline() == "ready\n"
    for rival in rivals:
        rival.stdin.write("\n")
        rival.stdin.flush()
    for rival in rivals:
        out, err = rival.communicate(timeout=60)
        assert (out, err, rival.returncode) == ("done\n", "", 0)
    assert os.listdir(tmp_path) == []
