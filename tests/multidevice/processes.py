"""Starts Python code in several processes on this machine that form one JAX computation."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.environment import environment

ROOT = Path(__file__).parent.parent.parent
# Of what several processes compile, JAX keeps what process 0 did. On CPUs the others look for programs
# under keys of their own, so that they would compile everything again at every start of the tests.
KEEP_PROGRAMS_OF_ALL = """
import types
from jax._src import compiler
as_first = types.SimpleNamespace(global_state=types.SimpleNamespace(process_id=0))
compiler._cache_write = types.FunctionType(
    compiler._cache_write.__code__, {**vars(compiler), "distributed": as_first}
)
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_processes(
    code: str, processes: int, devices: int, arguments: tuple[str, ...] = ()
) -> list[subprocess.Popen]:
    """Starts `code` in `processes` processes with `devices` fake CPU devices each.

    The code sees `arguments` in sys.argv; one process gets no cluster at all. What each compiles
    is kept where the code keeps programs, for the next start.
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
                [sys.executable, "-c", KEEP_PROGRAMS_OF_ALL + textwrap.dedent(code), *arguments],
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
