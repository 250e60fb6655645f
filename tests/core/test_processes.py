"""Which process a number means."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from owl2_jax.core import processes
from owl2_jax.core.processes import (
    cpu_seconds,
    lives,
    place,
    read_time,
    resident_bytes,
    started,
    usable_cores,
)


def test_this_process_lives_and_a_later_one_of_its_number_would_be_another():
    start = started(os.getpid())
    assert start is not None
    assert lives(os.getpid(), start)
    assert not lives(os.getpid(), "another time")


def test_an_ended_process_is_gone_before_and_after_it_is_waited_for():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = started(child.pid)
    assert lives(child.pid, start)
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not lives(child.pid, start)
    child.wait()
    assert not lives(child.pid, start)
    assert not lives(2**40, start)


def test_a_place_names_the_host_and_is_the_same_in_a_child():
    code = "from owl2_jax.core.processes import place; print(place())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == place()
    assert place().startswith(os.uname().nodename)


def test_a_process_may_use_at_least_one_core():
    assert 1 <= usable_cores() <= os.cpu_count()


def test_time_of_the_cpu_that_passes_is_counted():
    before, until = cpu_seconds(os.getpid()), time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert 0.03 < cpu_seconds(os.getpid()) - before < 10


def test_memory_that_is_taken_is_counted():
    before = resident_bytes(os.getpid())
    # A mapping of its own: the heap may have as much left over from before.
    held = mmap.mmap(-1, 64 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, len(held), mmap.PAGESIZE):
        held[page] = 1
    assert 60 * 2**20 < resident_bytes(os.getpid()) - before < 80 * 2**20
    del held


def test_where_there_is_no_proc_ps_is_asked(monkeypatch):
    told = {"time": "1:02.50", "rss": "2048"}
    monkeypatch.setattr(processes, "Path", lambda path: Path(f"/nowhere{path}"))
    monkeypatch.setattr(processes, "_ps", lambda column, process: told[column])
    assert cpu_seconds(1) == 62.5
    assert resident_bytes(1) == 2048 * 1024


def test_what_nobody_tells_is_none():
    assert cpu_seconds(2**22 + 1) is None
    assert resident_bytes(2**22 + 1) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:00.03", 0.03), ("62:03.04", 3723.04), ("01:02:03", 3723), ("1-02:03:04", 93784), ("12", None)],
)
def test_times_are_read_as_each_system_writes_them(text, seconds):
    assert read_time(text) == seconds
