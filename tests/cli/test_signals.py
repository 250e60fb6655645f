"""Ctrl-C and SIGTERM: what a command cleans up, and that nothing of Python's is printed."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

import pytest

from owl2_jax.core.processes import lives, started

# As `owl2` runs a command, with another one in its place. What a shell starts in the background
# ignores Ctrl-C, and so would these processes.
PROGRAM = """
import gc, os, signal, sys, threading, time, weakref
signal.signal(signal.SIGINT, signal.default_int_handler)
from owl2_jax.cli import main as dispatcher

def command(arguments):
    {body}

dispatcher._run = command
dispatcher.run()
"""
# A callback of the garbage collector, as JAX has one, during which the signal arrives.
IN_A_CALLBACK = """
    came = []
    def callback(phase, info):
        if phase == "start" and not came:
            came.append(phase)
            os.kill(os.getpid(), signal.{name})
            for _ in range(1000):
                pass
    gc.callbacks.append(callback)
    gc.collect()
    gc.callbacks.clear()
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        time.sleep(0.01)
    print("the signal was lost", flush=True)
    return 0
"""


def start(body: str) -> subprocess.Popen:
    code = PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), "    ").strip())
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("name", "code", "said"), [("SIGINT", 130, "interrupted\n"), ("SIGTERM", -signal.SIGTERM, "")]
)
def test_a_signal_that_comes_inside_a_callback_is_neither_printed_nor_lost(name, code, said):
    process = start(IN_A_CALLBACK.format(name=name))
    out, err = process.communicate(timeout=90)
    assert (process.returncode, out, err) == (code, "", said)


def test_a_destructor_swallows_no_signal_either():
    process = start(
        """
        class Leaves:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(1000):
                    pass
        Leaves()
        time.sleep(60)
        """
    )
    out, err = process.communicate(timeout=90)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


def test_what_else_a_callback_raises_is_still_printed():
    process = start(
        """
        class Broken:
            def __del__(self):
                raise ValueError("a fault of ours")
        Broken()
        return 0
        """
    )
    _, err = process.communicate(timeout=90)
    assert "ValueError: a fault of ours" in err


def test_sigterm_releases_locks_and_removes_half_written_output(tmp_path):
    process = start(
        f"""
        from pathlib import Path
        from owl2_jax.core.locks import locked
        from owl2_jax.checkpoint.output_directory import new_directory
        from owl2_jax.core.file_writing import new_file
        folder = Path({str(tmp_path)!r})
        with locked(folder / "lock", "x"), new_directory(folder / "out"), new_file(folder / "file") as part:
            part.write_text("half")
            print("ready", flush=True)
            time.sleep(60)
        """
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (-signal.SIGTERM, "", "")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_at_the_end_of_the_process_prints_nothing():
    process = start(
        """
        import atexit
        def slow():
            print("ending", flush=True)
            time.sleep(60)
        atexit.register(slow)
        return 0
        """
    )
    assert process.stdout.readline() == "ending\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_a_full_disk_behind_standard_output_is_told_in_one_line(flag):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "owl2_jax.cli.main", flag], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "error: no space left while writing standard output; make room and run it again\n"


def test_a_signal_during_an_import_waits_for_its_end(tmp_path):
    (tmp_path / "compiled.py").write_text(
        "import os, signal, time\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "time.sleep(0.5)\n"
        "print('imported', flush=True)\n"
    )
    process = start(
        f"""
        sys.path.insert(0, {str(tmp_path)!r})
        import compiled
        time.sleep(60)
        """
    )
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "imported\n", "interrupted\n")


def test_an_import_without_an_end_holds_a_signal_up_for_a_while_only(tmp_path):
    (tmp_path / "hanging.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    process = start(
        f"""
        from owl2_jax.cli import signals
        signals._MOST_SECONDS = 0.3
        sys.path.insert(0, {str(tmp_path)!r})
        import hanging
        """
    )
    begin = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize(("ending", "out"), [("return 0", "taken apart\n"), ("return 2", "")])
def test_after_a_failure_the_interpreter_stays_whole_for_what_jax_still_compiles(ending, out):
    process = start(
        f"""
        import atexit, jax
        atexit.register(print, "taken apart")
        print("last words", end=" ")
        {ending}
        """
    )
    found = process.communicate(timeout=60)
    assert (process.returncode, *found) == (int(ending[-1]), f"last words {out}", "")


def test_what_an_interrupted_command_was_using_is_not_freed_before_the_end():
    process = start(
        """
        import jax
        class Program:
            def __del__(self):
                print("freed", flush=True)
        program = Program()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
        """
    )
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


def test_worker_processes_end_with_a_command_that_failed():
    process = start(
        """
        import jax, multiprocessing
        worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,), daemon=True)
        worker.start()
        print(worker.pid, flush=True)
        return 2
        """
    )
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    limit = time.monotonic() + 30
    while lives(int(out), started(int(out)) or ""):
        assert time.monotonic() < limit
        time.sleep(0.05)
