"""`owl2` for one command after another: answers, logs, ends as `owl2` would."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from owl2_jax.core.append_file import AppendFile
from owl2_jax.data.bucket_cache import FOLDER, Cache
from owl2_jax.sweeps.processes import DONE, WORKER
from owl2_jax.version import __version__


@pytest.fixture
def line():
    """(process, our end of its socket)."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            number = theirs.fileno()
            process = subprocess.Popen([*WORKER, str(number)], pass_fds=[number], stderr=subprocess.PIPE)
        yield process, ours
    process.kill()
    process.communicate()


def ask(ours: socket.socket, path, *arguments: str) -> bytes:
    """The answer to a command that logs to `path`; nothing where the process ended."""
    with AppendFile(path) as log:
        socket.send_fds(ours, [json.dumps(arguments).encode() + b"\n"], [log.fileno()])
    return ours.recv(1)


def test_commands_run_in_one_process_each_with_its_log_until_one_fails(line, tmp_path):
    process, ours = line
    assert ask(ours, tmp_path / "one", "--version") == DONE
    assert ask(ours, tmp_path / "two", "--help") == DONE
    assert (tmp_path / "one").read_text() == f"owl2 {__version__}\n"
    assert (tmp_path / "two").read_text().startswith("usage: owl2 COMMAND")
    assert process.poll() is None
    assert ask(ours, tmp_path / "three", "evalute") == b""
    assert process.wait(timeout=30) == 2
    assert "did you mean 'evaluate'" in (tmp_path / "three").read_text()


def test_a_command_longer_than_a_message_arrives_whole(line, tmp_path):
    _, ours = line
    assert ask(ours, tmp_path / "log", "--version", "x" * 300_000) == DONE
    assert (tmp_path / "log").read_text() == f"owl2 {__version__}\n"


def test_arguments_that_cannot_be_parsed_end_it_with_the_code_of_the_command(line, tmp_path):
    process, ours = line
    assert ask(ours, tmp_path / "log", "sweep", "--jobs=0", "x.py") == b""
    assert process.wait(timeout=30) == 2
    assert "--jobs" in (tmp_path / "log").read_text()


def test_it_ends_when_nobody_asks_any_more_and_at_a_signal(line):
    process, ours = line
    other, theirs = socket.socketpair()
    with other, theirs:
        number = theirs.fileno()
        second = subprocess.Popen([*WORKER, str(number)], pass_fds=[number])
        ours.close()
        assert process.wait(timeout=30) == 0
        os.kill(second.pid, signal.SIGTERM)
        assert second.wait(timeout=30) == -signal.SIGTERM


def test_a_fault_of_ours_stands_in_the_log_with_its_traceback(tmp_path):
    program = (
        "import sys, owl2_jax.cli.worker as worker\n"
        "worker.main = lambda arguments: arguments['fault']\n"
        "worker.run(int(sys.argv[1]))"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        process = subprocess.Popen([sys.executable, "-c", program, str(number)], pass_fds=[number])
        theirs.close()
        assert ask(ours, tmp_path / "log", "--version") == b""
        assert process.wait(timeout=30) == 1
    assert "TypeError: list indices" in (tmp_path / "log").read_text()


def test_copies_that_a_command_read_may_go_once_it_ended(tmp_path):
    program = (
        "import sys, owl2_jax.cli.worker as worker\n"
        "from owl2_jax.data.bucket_cache import cache\n"
        "def main(arguments):\n"
        "    worker.bucket_files._held.append(cache().note(['a/b']))\n"
        "    print(cache().read_by_others())\n"
        "    return 0\n"
        "worker.main = main\n"
        "worker.run(int(sys.argv[1]))"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(number)],
            pass_fds=[number],
            env={**os.environ, FOLDER: str(tmp_path / "cache")},
        )
        theirs.close()
        assert ask(ours, tmp_path / "log") == DONE
        assert Cache(tmp_path / "cache", 3000, keeps_pieces=False).read_by_others() == set()
        ours.close()
        assert process.wait(timeout=30) == 0
    assert (tmp_path / "log").read_text() == "{'a/b'}\n"
