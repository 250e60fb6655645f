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
