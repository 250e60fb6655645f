"""Which process a number means."""

from __future__ import annotations

import os
import subprocess
import sys

from owl2_jax.core.processes import lives, place, started


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
