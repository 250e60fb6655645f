"""A wrong place, name or port is told before JAX is imported, which alone takes seconds."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

# Any import of JAX is an error of its own.
PROGRAM = """
import sys
class NoJax:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "orbax", "grain", "uvicorn"):
            raise RuntimeError(f"{name} was imported")
sys.meta_path.insert(0, NoJax())
from owl2_jax.cli.main import run
run()
"""
STAGE = "--config=configs/tiny/stage2.py"
NONE = "--checkpoint=nowhere"
MISSING = "checkpoint nowhere is no directory"
WRONG = {
    "train, config": (
        ["train", "--config=configs/tiny/stage.py", "--workdir=new"],
        "does not exist; there is",
    ),
    "train, start": (["train", STAGE, "--workdir=new", "train.start_from=nowhere"], MISSING),
    "train, workdir": (["train", STAGE, "--workdir=README.md/x"], "README.md is a file, not a folder"),
    "evaluate": (["evaluate", NONE, "--benchmarks=facts"], MISSING),
    "generate": (["generate", NONE, "--input=README.md", "--output=new.jsonl"], MISSING),
    "chat": (["chat", NONE], MISSING),
    "serve": (["serve", NONE], MISSING),
    "look": (["look", NONE, "--image=README.md", "--question=What?"], MISSING),
    "convert, source": (
        ["convert", "to-jax", "--source=nowhere", "--output=new"],
        "--source nowhere is no dir",
    ),
    "convert, checkpoint": (["convert", "to-torch", NONE, "--output=new"], MISSING),
    "convert, output": (["convert", "to-jax", "--source=configs", "--output=README.md"], "README.md exists"),
    "sweep, file": (["sweep", "configs/sweeps/query.py"], "does not exist; there is"),
    "sweep, workdir": (
        ["sweep", "configs/sweeps/query_count.py", "--workdir=README.md/x"],
        "is a file, not a folder",
    ),
    "report": (["report", "--run=nowhere", "--output=README.md/x.png"], "README.md is a file, not a folder"),
}


def refused(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_without_jax(name):
    arguments, message = WRONG[name]
    assert message in refused(*arguments)


def test_an_occupied_port_is_told_without_jax(checkpoint):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"cannot listen at 127.0.0.1 port {port}: " in refused(
            "serve", f"--checkpoint={checkpoint}", f"--port={port}"
        )
