"""Which process a number means: on this machine, now."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from pathlib import Path


def place() -> str:
    """Differs wherever process numbers mean something else: hosts, their restarts, containers."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def lives(process: int, start: str) -> bool:
    """Whether a process of this machine is the one that began at `start`."""
    now = started(process)
    if now is None:
        try:
            os.kill(process, 0)
        except PermissionError:  # there, and hidden from this user
            return True
        except (OSError, OverflowError):
            return False
        return not Path("/proc/self/stat").exists()
    return now == start


def started(process: int) -> str | None:
    """When a process of this machine began; None when there is none (or only its remains)."""
    try:
        # After the name, which may hold anything: state, ..., start in ticks since the machine's.
        fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    command = ["ps", "-o", "lstart=", "-p", str(process)]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    return None
