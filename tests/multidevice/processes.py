"""Starts Python code in several processes on this machine that form one JAX computation."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.environment import environment

ROOT = Path(__file__).parent.parent.parent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_processes(
    code: str, processes: int, devices: int, arguments: tuple[str, ...] = ()
) -> list[subprocess.Popen]:
    """Starts `code` in `processes` processes with `devices` fake CPU devices each.

    The code sees `arguments` in sys.argv; one process gets no cluster at all.
    """
    port, started = free_port(), []
    for process in range(processes):
        variables = environment(devices, PYTHONPATH=str(ROOT))
        if processes > 1:
            variables |= {
                "OWL2_COORDINATOR": f"127.0.0.1:{port}",
                "OWL2_PROCESSES": str(processes),
                "OWL2_PROCESS": str(process),
            }
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(code), *arguments],
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def finish(started: list[subprocess.Popen], timeout_s: float = 180) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each; stops all of them when one takes too long."""
    try:
        outputs = [process.communicate(timeout=timeout_s) for process in started]
        return [(p.returncode, *output) for p, output in zip(started, outputs, strict=True)]
    finally:
        for process in started:
            process.kill()
