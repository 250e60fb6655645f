"""One, two and four processes train alike, and each goes on from the others' checkpoints."""

from __future__ import annotations

import json
import shutil

import numpy as np

from owl2_jax.core.params_io import restore_params
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
    "data.lanes=4", "data.cache_samples=True", "mesh={'data': 4, 'fsdp': 2}",
    "model.vision.num_layers=1", "model.decoder.num_layers=1",
)  # fmt: skip


def train(config, run, processes, *overrides):
    """Trains over eight devices in all; returns exit codes and error output of the processes."""
    arguments = (f"--config={config}", f"--workdir={run}", *OVERRIDES, *overrides)
    results = finish(start_processes(TRAIN, processes, 8 // processes, arguments))
    return [code for code, _, _ in results], [err for _, _, err in results]


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


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
        codes, errors = train(config, run, processes)
        assert set(codes) == {0}, errors
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


def test_processes_with_different_checkpoints_all_say_so(tmp_path):
    config = runs.write_config(tmp_path / "config.py")
    own = TRAIN.replace("*sys.argv[1:]", "*sys.argv[1:], '--workdir=' + root + os.environ['OWL2_PROCESS']")
    own = f"import os\nroot = {str(tmp_path / 'run')!r}\n{own}"
    (tmp_path / "run1" / "checkpoints" / "2").mkdir(parents=True)
    arguments = (f"--config={config}", *OVERRIDES)
    for code, _, errors in finish(start_processes(own, 2, 4, arguments)):
        assert code == 2, errors
        assert "disagree about the newest saved step: 0 on process 0; 2 on process 1" in errors
