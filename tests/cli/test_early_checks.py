"""A wrong place, name or port is told before JAX is imported, which alone takes seconds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from owl2_jax.core import locks
from owl2_jax.core.file_identity import identities
from owl2_jax.core.json_files import write_json
from tests.convert.checkpoints import GOLDEN, copy, rewrite, tensors
from tests.training import runs

# Any import of JAX is an error of its own.
PROGRAM = """
import sys
class NoJax:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "orbax", "grain", "uvicorn"):
            raise RuntimeError(f"{name} was imported")
sys.meta_path.insert(0, NoJax())
from owl2_jax.cli.main import main, run
"""
STAGE = "--config=configs/tiny/stage2.py"
NONE = "--checkpoint=nowhere"
MISSING = "checkpoint nowhere is not a directory"
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
        "--source nowhere is not a dir",
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
        [sys.executable, "-c", PROGRAM + "run()", *arguments], capture_output=True, text=True, check=False
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


def all_refused(commands: list[list[str]]) -> list[str]:
    """What a process that cannot import JAX says to each of the commands, in a second or two."""
    code = PROGRAM + "for command in " + repr(commands) + ": assert main(command) == 2, command\n"
    begin = sum(os.times()[2:4])  # of processes that have ended
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert sum(os.times()[2:4]) - begin < 2 * len(commands), "seconds of a processor"
    lines = done.stderr.splitlines()
    assert len(lines) == len(commands)
    return lines


@pytest.fixture
def trained(tmp_path) -> Path:
    """A run directory with a step saved, as far as a look without JAX can tell, and its data in `data`."""
    config, data = runs.run_config(), tmp_path / "data"
    data.write_text("as it was")
    run = tmp_path / "run"
    (run / "checkpoints" / "4" / "params").mkdir(parents=True)
    (run / "checkpoints" / "4" / "params" / "_METADATA").touch()
    write_json(run / "config.json", config.to_dict())
    write_json(run / "data.json", {"captions": identities([data])})
    runs.write_config(tmp_path / "small.py")
    return run


def test_a_run_that_cannot_go_on_says_so_without_jax(trained, tmp_path):
    train = ["train", f"--config={tmp_path}/small.py", f"--workdir={trained}"]
    (tmp_path / "data").write_text("no more so")
    start = ["train", f"--config={tmp_path}/small.py", f"--workdir={tmp_path}/new"]
    commands = [
        train,
        [*train, "train.total_steps=3"],
        [*train, "train.total_steps=8"],
        [*start, f"train.start_from={trained}"],
        ["evaluate", f"--checkpoint={trained}", "--benchmarks=drawn_color", f"--output={tmp_path}/out"],
        ["chat", f"--checkpoint={trained}"],
    ]
    data, steps, longer, *lost = all_refused(commands)
    assert f"{tmp_path}/data had 9 bytes and has 10. Put the old files back" in data
    assert "has 4 steps saved, more than the 3 of train.total_steps now" in steps
    assert "cannot be extended from 4 to 8 steps (train.total_steps): its learning rate falls" in longer
    for line in lost:
        assert f"{trained}/model.json is missing; copy it back, or run its `owl2 train --workdir=" in line


def test_an_output_in_use_is_told_without_jax(trained, checkpoint, tmp_path):
    train = ["train", f"--config={tmp_path}/small.py", f"--workdir={trained}"]
    evaluate = ["evaluate", f"--checkpoint={checkpoint}", "--benchmarks=drawn_color", f"--output={trained}"]
    with locks.locked(trained / locks.LOCK_FILE, "x"):
        first, second = all_refused([train, evaluate])
    assert first.startswith(f"error: --workdir {trained} is in use: host ")
    assert second.startswith(f"error: --output {trained} is in use: host ")


def test_damaged_weights_are_told_without_jax(checkpoint, tmp_path):
    folder = copy("B/hf", tmp_path / "folder")
    (folder / "model.safetensors").unlink(missing_ok=True)
    (folder / "model.safetensors").mkdir()
    deep = copy("B/hf", tmp_path / "deep")
    header = b'{"a":' * 100_000
    (deep / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    wide = copy("B/hf", tmp_path / "wide")
    bad = {name: value.double() for name, value in tensors(GOLDEN / "B/hf").items()}
    bad["lm_head.weight"][0, 0] = 1e300
    rewrite(wide, bad)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    odd = tmp_path / "odd"
    odd.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    (odd / "adapter_config.json").write_text(json.dumps({**settings, "init_lora_weights": "pissa"}))
    to_jax = [
        ["convert", "to-jax", f"--source={one}", f"--output={tmp_path}/new"] for one in (folder, deep, wide)
    ]
    onto = ["convert", "import-lora", f"--checkpoint={checkpoint}", f"--output={tmp_path}/new"]
    said = all_refused([*to_jax, [*onto, f"--adapter={adapter}"], [*onto, f"--adapter={odd}"]])
    assert "model.safetensors is a folder, expected a file" in said[0]
    assert "it is nested too deep to be read; copy the file again" in said[1]
    assert "lm_head.weight has values beyond float32 (largest 1e+300)" in said[2]
    assert "has no adapter_model.safetensors or adapter_model.bin" in said[3]
    assert "init_lora_weights is 'pissa'; only True is supported" in said[4]
