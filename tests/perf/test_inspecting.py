from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from owl2_jax.cli.main import main
from owl2_jax.config import load_config
from owl2_jax.core import tree
from owl2_jax.core.errors import Owl2Error
from owl2_jax.perf.inspecting import Machine, inspect
from tests.training import runs

ROOT = Path(__file__).parents[2]
OWL2 = [sys.executable, "-m", "owl2_jax.cli.main", "inspect"]


def test_the_full_model_takes_seconds_and_no_device():
    """The named platform does not exist: any use of a device would be an error."""
    command = [*OWL2, "--config=configs/pretrain_7b.py", "--topology=v5p:4x4x4", "--json"]
    environment = {**os.environ, "JAX_PLATFORMS": "no_such_platform"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    parts = {row["part"]: row["parameters"] for row in found["parameters"]}
    # Sizes of the released model; the position table is that of 224 pixels.
    assert parts == {
        "vision encoder": 303_966_208 - 768 * 1024,
        "visual abstractor": 81_473_536,
        "token embedding": 131_072_000,
        "decoder layers, image branch": 1_074_003_968,
        "decoder layers, text branch and shared": 6_476_267_520,
        "final norm": 4_096,
        "head": 131_072_000,
        "all": 8_197_859_328 - 768 * 1024,
    }
    assert found["machine"]["mesh"]["fsdp"] == 64
    work = found["flops"]
    assert work["hours_at_peak"] == pytest.approx(work["seconds_at_peak"] * 42_500 / 3600)
    model = work["parts"]["all"]["forward"] + work["parts"]["all"]["backward"]
    assert work["seconds_at_peak"] == pytest.approx(model / (64 * 459e12))


def test_the_parts_of_owl2_1_are_those_of_the_release():
    config = load_config(f"{ROOT}/configs/pretrain_7b.py:model=owl2_1,image_size=448")
    found = inspect(config, Machine(64))
    parts = {row["part"]: row["parameters"] for row in found["parameters"]}
    assert parts == {
        "vision encoder": 303_966_208,
        "visual abstractor": 81_473_536,
        "token embedding": 622_329_856,
        "decoder layers, image branch": 1_611_005_952,
        "decoder layers, text branch and shared": 8_087_666_688 - 1_611_005_952,
        "final norm": 4_096,
        "head": 622_329_856,
        "all": 9_717_770_240,
    }
    trained = {leaf["name"] for leaf in found["shardings"] if leaf["trained"]}
    image_branch = {
        f"decoder/layers/attention/{part}_image/{leaf}" for part in "qkv" for leaf in ("kernel", "bias")
    }
    assert {name for name in trained if name.startswith("decoder/")} == image_branch


def test_memory_is_that_of_the_trainers_state_on_the_mesh():
    config = runs.run_config("mesh={'data': 2, 'fsdp': 2, 'tensor': 2}")
    found = inspect(config, Machine(8))
    trainer = runs.trainer_of(config, devices=8)
    state = trainer.abstract_state()

    def bytes_per_device(values) -> int:
        leaves = jax.tree.leaves(values)
        return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in leaves)

    assert found["memory"]["parameters"] == bytes_per_device(state.params)
    counters = 8  # the optimiser's two step counts
    assert found["memory"]["optimiser"] == bytes_per_device(state.opt_state) - counters
    specs = {leaf["name"]: leaf["spec"] for leaf in found["shardings"]}
    assert specs.keys() == tree.flatten(state.params).keys()
    assert specs["decoder/layers/mlp/up/kernel"] == "-, fsdp, tensor"


def test_tables_name_everything(capsys):
    assert main(["inspect", "--config=configs/tiny/stage1.py", "--devices=2", "--all"]) == 0
    printed = capsys.readouterr().out
    for word in ("visual abstractor", "image_branch", "vision/cls_token", "optimiser", "backward", "all"):
        assert word in printed
    assert main(["inspect", "--preset=owl2_tiny", "--gpus=h100:8"]) == 0
    printed = capsys.readouterr().out
    assert "at the chips' peak" in printed
    assert "TFLOP" not in printed, "a tiny model's work would round to nothing"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus=h10:8"], "unknown kind of GPU 'h10'; did you mean 'h100'"),
        (["--gpus=h100"], "write kind and number, as h100:8"),
        (["--devices=0"], "--devices must be at least 1"),
        (["--devices=3"], "256 data.rows do not divide over"),
        (["mesh.fspd=2"], "unknown key of mesh 'fspd'; did you mean 'fsdp'"),
        (["model.lora.targets=['qq']"], "unknown LoRA target 'qq'"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message, capsys):
    assert main(["inspect", "--preset=owl2_tiny", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_groups_that_do_not_cover_are_refused():
    config = runs.run_config("train.groups=[{'name': 'a', 'pattern': 'vision/.*'}]")
    with pytest.raises(Owl2Error, match="match no rule"):
        inspect(config, Machine(1))
