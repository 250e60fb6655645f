"""Processes of a sweep, and the locks they keep."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.sweeps import processes


def test_a_process_whose_lock_cannot_be_shared_is_ended(monkeypatch):
    monkeypatch.setattr(processes, "PROGRAM", (sys.executable, "-c", "import time; time.sleep(600)"))
    monkeypatch.setattr(processes, "_IN_FRONT", ())

    class Full:
        def share(self, process: int) -> None:
            self.process = process
            raise Owl2Error("no space left while writing lock")

    lock = Full()
    children = processes.Children(dict(os.environ))
    with pytest.raises(Owl2Error, match="no space left"):
        children.run([], subprocess.DEVNULL, lock)
    assert not os.path.exists(f"/proc/{lock.process}")


def test_a_worker_that_cannot_start_tells_why_in_the_log_of_its_command(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "WORKER", (sys.executable, "-c", "import sys; sys.exit('no such module')"))
    monkeypatch.setattr(processes, "_IN_FRONT", ())

    class Lock:
        def share(self, process: int) -> None:
            self.process = process

    worker = processes.Worker(processes.Children(dict(os.environ)), threads=1)
    with (tmp_path / "log.txt").open("w") as log:
        assert worker.run(["train"], log.fileno(), Lock()) == 1
    assert (tmp_path / "log.txt").read_text() == "no such module\n"
