from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

from owl2_jax.training import watchdog
from owl2_jax.training.watchdog import EXIT_HANG, Watchdog, write_heartbeat

HANGS = """
import sys, time
from pathlib import Path
from owl2_jax.training.watchdog import Watchdog
def a_collective_that_never_returns():
    time.sleep(60)
with Watchdog(Path(sys.argv[1]), 0.5) as watchdog:
    watchdog.beat(7)
    a_collective_that_never_returns()
"""


def test_a_run_that_hangs_says_every_hosts_step_and_its_stacks_and_exits(tmp_path):
    write_heartbeat(tmp_path, 0, 7)
    write_heartbeat(tmp_path, 11, 6)
    done = subprocess.run(
        [sys.executable, "-c", HANGS, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == EXIT_HANG
    first, *hosts = done.stderr.splitlines()[:3]
    assert first.startswith("error: host 0 finished no step for")
    assert "its last is 7" in first
    assert hosts[0].startswith("  host 0: step 7, ")
    assert hosts[1].startswith("  host 11: step 6, ")
    assert "in a_collective_that_never_returns" in done.stderr


def test_a_foreign_or_damaged_file_among_the_heartbeats_keeps_no_run_alive(tmp_path, monkeypatch):
    write_heartbeat(tmp_path, 0, 7)
    (tmp_path / "heartbeats" / "notes.json").write_text("{}")
    (tmp_path / "heartbeats" / "1.json").write_text("{")
    said = []
    monkeypatch.setattr(watchdog, "exit_hung", said.append)
    watchdog.exit_stalled(tmp_path, 7, 1801.0)
    assert "finished no step for 1801 s" in said[0]
    assert "host 0: step 7" in said[0]


def test_beats_and_pauses_keep_it_quiet(tmp_path):
    expired = threading.Event()
    with Watchdog(tmp_path, 2, lambda *_: expired.set()) as watched:
        for step in range(6):
            time.sleep(0.5)
            watched.beat(step)
        with watched.paused():
            time.sleep(4)
        assert not expired.is_set()
        assert expired.wait(5), "silence after the pause counts"


def test_zero_seconds_watch_nothing(tmp_path):
    with Watchdog(tmp_path, 0, lambda *_: None) as watched:
        assert not watched._thread.is_alive()


def test_heartbeats_are_whole_files(tmp_path):
    write_heartbeat(tmp_path, 3, 5)
    assert json.loads((tmp_path / "heartbeats" / "3.json").read_text())["step"] == 5
    assert len(list((tmp_path / "heartbeats").iterdir())) == 1
