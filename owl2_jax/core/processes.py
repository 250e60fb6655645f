"""Which process a number means: on this machine, now; and what it has taken."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from pathlib import Path

_TIME = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+(?:[.,]\d+)?)")  # [[days-]hours:]minutes:seconds


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
    return _ps("lstart", process)


def usable_cores() -> int:
    """Cores that this process may use, where the system tells; else those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_seconds(process: int) -> float | None:
    """Seconds of the CPU that a process has taken, its threads included; None where nobody tells."""
    with contextlib.suppress(OSError, IndexError):
        times = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return sum(map(int, times[11:13])) / os.sysconf("SC_CLK_TCK")
    return read_time(_ps("time", process) or "")


def resident_bytes(process: int) -> int | None:
    """Bytes of memory that a process holds; None where nobody tells."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    kib = _ps("rss", process)
    return int(kib) * 1024 if kib and kib.isdecimal() else None


def read_time(text: str) -> float | None:
    """Seconds of a time as `ps` writes it, "1-02:03:04" or "62:03.04"; None for another text."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    days, hours, minutes = (int(part or 0) for part in found.groups()[:3])
    return ((days * 24 + hours) * 60 + minutes) * 60 + float(found[4].replace(",", "."))


def _ps(column: str, process: int) -> str | None:
    """A column of `ps`, which systems have that have no /proc; None where there is neither."""
    command = ["ps", "-o", f"{column}=", "-p", str(process)]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    return None
