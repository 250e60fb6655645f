"""Commands whose runs, checkpoints and outputs lie in a bucket."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from owl2_jax.checkpoint.param_files import resolve_checkpoint, restore_params
from owl2_jax.cli.main import main
from owl2_jax.core.tree import flatten
from owl2_jax.training.logging.metrics import read_metrics
from tests.training import runs


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return runs.write_config(tmp_path_factory.mktemp("configs") / "small.py")


def train(config, run, *overrides: str) -> int:
    fields = ["mesh.data=8", "train.save_every_steps=2", "train.log_every_steps=1", *overrides]
    return main(["train", f"--config={config}", f"--workdir={run}", *fields])


def parameters(run) -> dict[str, np.ndarray]:
    return flatten(restore_params(resolve_checkpoint(run).params))


def test_a_run_in_a_bucket_and_its_rest_are_those_of_a_disk(config, bucket, tmp_path, capsys):
    assert train(config, bucket, "train.total_steps=2") == 0
    assert train(config, bucket, "train.total_steps=4") == 0
    assert train(config, bucket, "train.total_steps=4") == 0
    assert capsys.readouterr().out.endswith(f"{bucket} is complete: step 4 is saved\n")
    assert train(config, tmp_path / "run", "train.total_steps=4") == 0
    there, here = parameters(bucket), parameters(tmp_path / "run")
    assert there.keys() == here.keys()
    assert all(np.array_equal(there[name], here[name]) for name in here)
    assert [line["step"] for line in read_metrics(bucket)] == [1, 2, 3, 4]
    names = {path.name for path in bucket.iterdir()}
    assert names >= {"config.json", "model.json", "run.json", "data.json", "metrics.jsonl", "checkpoints"}
    assert "owl2.lock" not in names
    assert len(list((bucket / "tensorboard").iterdir())) == 2
    assert not Path("gs:").exists()
