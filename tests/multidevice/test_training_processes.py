"""One, two and four processes train alike, evaluate alike, and each goes on from the others' checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest

from owl2_jax.checkpoint.param_files import restore_params
from owl2_jax.core import locks
from owl2_jax.core.tree import flatten
from tests.multidevice.processes import finish, start_processes
from tests.training import runs

TRAIN = """
import sys
from owl2_jax.cli.main import main
sys.exit(main(["train", *sys.argv[1:]]))
"""
OVERRIDES = (
    "train.total_steps=4", "train.save_every_steps=2", "train.log_every_steps=1", "train.keep_checkpoints=4",
    "data.shards=4", "data.cache_samples=True", "mesh={'data': 4, 'fsdp': 2}",
    "model.vision.num_layers=1", "model.decoder.num_layers=1",
)  # fmt: skip
EVALUATIONS = (
    "heldout={'datasets': {'facts': {'kind': 'embedded', 'options': {'dataset': 'facts', 'split': 'test'}}},"
    " 'every_steps': 4, 'max_samples': 24}",
    "evaluators=[{'benchmark': 'facts', 'max_questions': 6}]",
)
# One host alone cannot read what it needs of a checkpoint.
DAMAGED = """
import os
from owl2_jax.checkpoint.run_checkpoints import Checkpoints
read = Checkpoints._read_step
def read_or_fail(self, step, like):
    found = read(self, step, like)
    if step == max(self.steps) and os.environ["OWL2_PROCESS"] == "1":
        raise OSError("a disk of this host is gone")
    return found
Checkpoints._read_step = read_or_fail
"""
# One host alone has no room for the first step on its own disk.
NO_ROOM = """
import errno, os
from owl2_jax.checkpoint import local_tier
write = local_tier._write_parts
def write_or_fail(folder, *rest):
    if folder.name == ".1.tmp" and os.environ["OWL2_PROCESS"] == "1":
        raise OSError(errno.ENOSPC, "No space left on device")
    return write(folder, *rest)
local_tier._write_parts = write_or_fail
"""


def train(config, run, processes, *overrides, before=""):
    """Trains over eight devices in all; returns exit codes and error output of the processes.

    Args:
      before: code that each process runs first.
    """
    arguments = (f"--config={config}", f"--workdir={run}", *OVERRIDES, *overrides)
    results = finish(start_processes(before + TRAIN, processes, 8 // processes, arguments))
    return [code for code, _, _ in results], [err for _, _, err in results]


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def evaluated(run):
    """What was evaluated after the last step."""
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return {name: value for name, value in row.items() if name.startswith(("heldout/", "facts/"))}


def stop_behind(started, run, readings):
    """Asks process 1 to stop when so many readings are written; what `finish` returns."""
    path, deadline = run / "metrics.jsonl", time.monotonic() + 300
    while not path.is_file() or len(path.read_text().splitlines()) < readings:
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in started), finish(started)
        time.sleep(0.05)
    started[1].send_signal(signal.SIGTERM)
    return finish(started)


def saved(run, step):
    """Parameters and data state of a checkpoint."""
    folder = run / "checkpoints" / str(step)
    # Beside it lies a fingerprint of the parameters' bits, which the order of a sum changes.
    params = restore_params(folder / "params")
    return flatten(params), json.loads((folder / "data" / "metadata").read_text())["data"]


def test_processes_train_alike_and_resume_each_other(tmp_path):
    config = runs.write_config(tmp_path / "config.py")
    one, two = tmp_path / "one", tmp_path / "two"
    for run, processes in ((one, 1), (two, 2)):
        codes, errors = train(config, run, processes, *EVALUATIONS)
        assert set(codes) == {0}, errors
    assert evaluated(two) == pytest.approx(evaluated(one), rel=1e-5)
    assert {"heldout/loss", "heldout/accuracy/facts", "facts/accuracy"} <= evaluated(one).keys()
    np.testing.assert_allclose(list(losses(two).values()), list(losses(one).values()), rtol=1e-5)
    assert list(losses(one)) == [1, 2, 3, 4]

    wanted_params, wanted_data = saved(one, 4)
    for processes in (1, 4):
        resumed = tmp_path / f"resumed by {processes}"
        shutil.copytree(two, resumed)
        shutil.rmtree(resumed / "checkpoints" / "4")
        codes, errors = train(config, resumed, processes)
        assert set(codes) == {0}, errors
        params, data = saved(resumed, 4)
        assert data == wanted_data
        for name, value in wanted_params.items():
            np.testing.assert_allclose(params[name], value, atol=2e-5, err_msg=name)


def test_processes_with_different_configs_all_say_which_field(tmp_path):
    config = runs.write_config(tmp_path / "config.py")
    seeds = TRAIN.replace("*sys.argv[1:]", "*sys.argv[1:], 'train.seed=' + os.environ['OWL2_PROCESS']")
    different = f"import os\n{seeds}"
    arguments = (f"--config={config}", f"--workdir={tmp_path / 'run'}", *OVERRIDES)
    for code, _, errors in finish(start_processes(different, 2, 4, arguments)):
        assert code == 2, errors
        assert "disagree about the config: train.seed 0 on process 0; 1 on process 1" in errors
    assert not (tmp_path / "run").exists()


def test_all_processes_say_who_holds_the_run_and_the_first_takes_a_dead_ones_lock(tmp_path):
    config, run = runs.write_config(tmp_path / "config.py"), tmp_path / "run"
    with locks.locked(run / locks.LOCK_FILE, "x"):
        codes, errors = train(config, run, 2)
    assert codes == [2, 2], errors
    for error in errors:
        assert f"--workdir {run} is in use: host " in error
        assert f"process {os.getpid()}, " in error

    lock = locks.take(run / locks.LOCK_FILE, "x")
    lock._ended.set()  # as if its process had been killed
    lock = json.loads((run / locks.LOCK_FILE).read_text())
    (run / locks.LOCK_FILE).write_text(json.dumps({**lock, "processes": {"1": "0"}}))
    codes, errors = train(config, run, 2)
    assert codes == [0, 0], errors
    assert not (run / locks.LOCK_FILE).exists()


def test_processes_with_different_checkpoints_all_say_so(tmp_path):
    config = runs.write_config(tmp_path / "config.py")
    own = TRAIN.replace("*sys.argv[1:]", "*sys.argv[1:], '--workdir=' + root + os.environ['OWL2_PROCESS']")
    own = f"import os\nroot = {str(tmp_path / 'run')!r}\n{own}"
    (tmp_path / "run1" / "checkpoints" / "2").mkdir(parents=True)
    arguments = (f"--config={config}", *OVERRIDES)
    for code, _, errors in finish(start_processes(own, 2, 4, arguments)):
        assert code == 2, errors
        assert "disagree about the newest saved step: 0 on process 0; 2 on process 1" in errors


def test_a_notice_to_one_process_stops_all_and_all_go_back_to_the_same_step(tmp_path):
    config, run = runs.write_config(tmp_path / "config.py"), tmp_path / "run"
    arguments = (f"--config={config}", f"--workdir={run}", *OVERRIDES, "train.total_steps=5000")
    for code, _, errors in stop_behind(start_processes(TRAIN, 2, 4, arguments), run, 5):
        assert code == 0, errors
    steps = sorted(int(path.name) for path in (run / "checkpoints").iterdir())
    assert len(steps) > 1

    last = len((run / "metrics.jsonl").read_text().splitlines())
    for code, _, errors in stop_behind(start_processes(DAMAGED + TRAIN, 2, 4, arguments), run, last + 3):
        assert code == 0, errors
        assert (
            f"checkpoint of step {steps[-1]} cannot be read (host 1: a disk of this host is gone)" in errors
        )
    assert (run / "damaged" / str(steps[-1])).is_dir()
    assert list(losses(run)) == list(range(1, max(losses(run)) + 1)), "every step has one reading"


def test_hosts_go_on_from_their_own_disks_and_from_the_run_where_one_lost_its_own(tmp_path):
    config, run, disk = runs.write_config(tmp_path / "config.py"), tmp_path / "run", tmp_path / "disk"
    local = {"folder": str(disk), "every_steps": 1, "keep": 4}
    overrides = (f"train.local_checkpoints={local}", "mesh={'fsdp': 8}")
    codes, errors = train(config, run, 2, *overrides, "train.max_failed_saves=1", before=NO_ROOM)
    assert codes == [0, 0], errors
    for error in errors:
        assert "host 1: train.local_checkpoints: no space left while writing" in error
    wanted = saved(run, 4)
    for lost in (None, "1-of-2"):
        shutil.rmtree(run / "checkpoints" / "4")
        shutil.copytree(run / "checkpoints" / "2", tmp_path / "2", dirs_exist_ok=True)
        if lost is None:  # whoever reads it would find it damaged
            shutil.rmtree(run / "checkpoints" / "2" / "params")
        else:
            shutil.rmtree(next(disk.glob(f"*/*/{lost}")))
        codes, errors = train(config, run, 2, *overrides)
        assert codes == [0, 0], errors
        assert not (run / "damaged").exists()
        told = "step 3 cannot be read from the hosts' own disks (host 1: this host's disk lacks a part"
        assert (told in errors[0]) == (lost is not None), errors
        params, data = saved(run, 4)
        assert data == wanted[1]
        for name, value in wanted[0].items():
            np.testing.assert_array_equal(params[name], value, err_msg=name)
        shutil.copytree(tmp_path / "2", run / "checkpoints" / "2", dirs_exist_ok=True)
