"""Two commands never write one output at a time: the second says who is there; a dead one is no hindrance."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from owl2_jax.cli.main import main
from owl2_jax.core import locks
from owl2_jax.training.logging.metrics import read_metrics
from tests.data.corpora import dialogue, write_set
from tests.environment import environment
from tests.training import runs


@pytest.fixture
def train(tmp_path):
    """Starts `owl2 train` in `tmp_path/run`."""
    config, started = runs.write_config(tmp_path / "small.py"), []

    def start(*overrides: str) -> subprocess.Popen:
        command = runs.train_command(config, tmp_path / "run", "train.log_every_steps=1", *overrides)
        started.append(
            subprocess.Popen(
                command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    limit = time.monotonic() + 300
    while not any(line["step"] >= step for line in read_metrics(run)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_a_second_training_in_one_workdir_is_refused_and_a_killed_one_is_gone_on_with(train, tmp_path):
    run = tmp_path / "run"
    first = train("train.total_steps=2000", "train.save_every_steps=2")
    wait_for_step(run, 3, first)
    second = train("train.total_steps=2000", "train.save_every_steps=2")
    out, err = second.communicate(timeout=120)
    assert (second.returncode, out) == (2, "")
    assert err.startswith(f"error: --workdir {run} is in use: host ")
    assert f"process {first.pid}, `main.py train --config={tmp_path}/small.py" in err
    assert err.count("\n") == 1
    assert first.poll() is None, "the first one goes on"

    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (run / locks.LOCK_FILE).exists()
    step = max(line["step"] for line in read_metrics(run))
    third = train("train.total_steps=2000", "train.save_every_steps=2")
    wait_for_step(run, step + 3, third)
    third.send_signal(signal.SIGTERM)
    out, err = third.communicate(timeout=120)
    assert (third.returncode, err) == (0, "")
    assert not (run / locks.LOCK_FILE).exists(), "released"
    steps = [line["step"] for line in read_metrics(run)]
    assert steps == list(range(1, len(steps) + 1))


def test_a_training_refused_for_its_settings_leaves_neither_lock_nor_folder(train, tmp_path):
    process = train("mesh={'data': 3}")
    assert "but there are 1 devices" in process.communicate(timeout=120)[1]
    assert not (tmp_path / "run").exists()


def refused(arguments: list[str], capsys) -> str:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert f"is in use: host {os.uname().nodename}, process {os.getpid()}" in said
    return said


def test_evaluations_into_one_folder_exclude_each_other(checkpoint, tmp_path, capsys):
    command = ["evaluate", f"--checkpoint={checkpoint}", "--benchmarks=drawn_color", f"--output={tmp_path}"]
    with locks.locked(tmp_path / locks.LOCK_FILE, "x"):
        assert f"--output {tmp_path} is in use" in refused(command, capsys)
    assert os.listdir(tmp_path) == []


def test_answers_into_one_file_exclude_each_other(checkpoint, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"prompt": "What?"}\n')
    out = tmp_path / "out.jsonl"
    command = ["generate", f"--checkpoint={checkpoint}", f"--input={tmp_path}/in.jsonl", f"--output={out}"]
    with locks.locked(tmp_path / "out.jsonl.lock", "x"):
        assert f"--output {out} is in use" in refused(command, capsys)
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_preparations_of_one_output_exclude_each_other(tmp_path, capsys):
    source = write_set(tmp_path, "texts", [dialogue("a", "A caption.", [])])
    values = {"datasets": {"texts": {"kind": "llava", "options": {"path": str(source)}}}}
    (tmp_path / "prepare.py").write_text(f"def get_config():\n    return {values!r}\n")
    command = ["data", "prepare", f"{tmp_path}/prepare.py", f"--output={tmp_path}/out"]
    with locks.locked(tmp_path / ".out.lock", "x"):
        assert f"--output {tmp_path}/out is in use" in refused(command, capsys)
    assert main(command) == 0
    assert not list(tmp_path.glob(".out*"))


def test_the_lock_of_another_host_that_is_silent_does_not_stop_an_evaluation(checkpoint, tmp_path, capsys):
    locks.take(tmp_path / locks.LOCK_FILE, "x")._ended.set()
    path = tmp_path / locks.LOCK_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "place": "node7", "token": "other"}))
    stamp = path.stat().st_mtime - locks.STALE_SECONDS - 1
    os.utime(path, (stamp, stamp))
    command = ["evaluate", f"--checkpoint={checkpoint}", "--benchmarks=drawn_color", f"--output={tmp_path}"]
    assert main([*command, "--limit=2", "--sequences=2"]) == 0
    assert not path.exists()
