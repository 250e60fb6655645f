from __future__ import annotations

import copy
import json
import subprocess

import jax
import pytest

from owl2_jax.config import todays_names
from owl2_jax.core.errors import Owl2Error
from owl2_jax.training import run_directory
from owl2_jax.training.run_directory import (
    check_data,
    check_run_directory,
    check_tokenizer_file,
    data_manifest,
    git_state,
    record_start,
    saved_step,
    write_run_directory,
)
from tests.training import runs

DEVICES = {"kind": "cpu", "count": 1, "processes": 1, "mesh": {"data": 1}}


def starts(folder):
    return json.loads((folder / "run.json").read_text())["starts"]


def test_every_start_is_recorded(tmp_path):
    config = runs.run_config().to_dict()
    write_run_directory(tmp_path, config, b"pieces")
    for _ in range(2):
        record_start(tmp_path, config, DEVICES, {"captions": 10, "facts": 20})
    first, second = starts(tmp_path)
    assert first["versions"]["jax"] == jax.__version__
    assert {"owl2_jax", "python", "flax", "optax", "orbax-checkpoint"} <= first["versions"].keys()
    assert first["devices"] == DEVICES
    assert first["data"]["facts"]["records"] == 20
    assert first["config_sha256"] == second["config_sha256"]
    assert json.loads((tmp_path / "config.json").read_text()) == config
    assert {"time", "command", "git", "data_sha256"} <= first.keys()

    changed = runs.run_config("train.log_every_steps=3").to_dict()
    record_start(tmp_path, changed, DEVICES, {"captions": 10, "facts": 21})
    last = starts(tmp_path)[-1]
    assert last["config_sha256"] != first["config_sha256"]
    assert last["data_sha256"] != first["data_sha256"], "a set has grown"


def test_the_manifest_knows_the_files_of_a_set(tmp_path):
    path = tmp_path / "questions.json"
    path.write_text("[]")
    dataset = {"kind": "llava", "options": {"path": str(path), "dataset": "mine"}}
    assert data_manifest({"mine": dataset}, {"mine": 0}) == {
        "mine": {**dataset, "records": 0, "files": {str(path): 2}}
    }


def test_git_state_names_commit_and_changes(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=x", "-c", "user.email=x@y"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    module = tmp_path / "run_directory.py"
    module.write_text("1")
    git("init", "-q")
    monkeypatch.setattr(run_directory, "__file__", str(module))
    assert git_state(tmp_path) is None, "the code is not tracked here"
    git("add", "run_directory.py")
    git("commit", "-qm", "x")
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40
    assert state["changed"] is False
    module.write_text("2")
    assert git_state(tmp_path)["changed"] is True
    assert git_state(tmp_path / "nowhere") is None


def test_where_a_run_is_computed_may_change_and_what_it_learns_may_not(tmp_path):
    write_run_directory(tmp_path, runs.run_config().to_dict(), b"pieces")
    free = ("data.workers=2", "data.prefetch=1", "data.max_rejected_share=0.5", "mesh={'fsdp': 1}")
    check_run_directory(tmp_path, runs.run_config(*free).to_dict())
    with pytest.raises(Owl2Error, match=r"data\.seed: 0 -> 1"):
        check_run_directory(tmp_path, runs.run_config("data.seed=1").to_dict())


def test_a_run_of_an_older_version_goes_on_under_the_names_of_today(tmp_path):
    now = runs.run_config().to_dict()
    old = copy.deepcopy(now)
    old["data"]["lanes"] = old["data"].pop("shards")
    old["data"]["image_slots"] = old["data"].pop("images_per_row")
    old["train"]["max_targets"] = old["data"]["max_targets"]
    old["model"]["mlp_apart"] = "around"
    for group in old["train"]["groups"]:
        rate, trainable = group.pop("lr_multiplier"), group.pop("trainable")
        group["lr"] = rate if trainable else None
    write_run_directory(tmp_path, old, b"pieces")
    check_run_directory(tmp_path, now, todays_names)
    with pytest.raises(Owl2Error, match=r"data\.shards: None -> 2"):
        check_run_directory(tmp_path, now)


def test_a_run_that_kept_one_step_on_each_disk_goes_on_with_two(tmp_path):
    local = {"folder": str(tmp_path / "disk"), "every_steps": 5}
    now = runs.run_config(f"train.local_checkpoints={local}").to_dict()
    old = copy.deepcopy(now)
    old["data"]["lanes"] = old["data"].pop("shards")
    old["train"]["local_checkpoints"]["keep"] = 1
    write_run_directory(tmp_path, old, b"pieces")
    check_run_directory(tmp_path, now, todays_names)
    assert todays_names(old) == now


def test_the_newest_saved_step_counts_whole_ones_alone(tmp_path):
    assert saved_step(tmp_path) == 0
    for name in ("4", "20", "30.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert saved_step(tmp_path) == 20


def one_file(content_hash: str) -> dict:
    return {"mine": {"a.json": {"bytes": 1234567, "hash": content_hash}}}


def test_other_files_of_the_data_are_refused_once_a_step_is_saved(tmp_path):
    check_data(tmp_path, one_file("a"))
    check_data(tmp_path, one_file("b"))  # nothing is trained on the first one yet
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)
    check_data(tmp_path, one_file("b"))
    with pytest.raises(Owl2Error) as caught:
        check_data(tmp_path, one_file("c"))
    assert str(caught.value) == (
        f"data.datasets.mine is not what {tmp_path} was trained on so far: a.json has the same size and "
        "other content. Put the old files back; or start another --workdir with "
        f"train.start_from={tmp_path}; or go on with the new ones by --accept-changed-data"
    )
    check_data(tmp_path, one_file("c"), accept=True)
    check_data(tmp_path, one_file("c"))


def test_another_tokenizer_of_the_same_name_is_refused_once_a_step_is_saved(tmp_path):
    write_run_directory(tmp_path, runs.run_config().to_dict(), b"pieces")
    check_tokenizer_file(tmp_path, b"others")
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)
    check_tokenizer_file(tmp_path, b"pieces")
    with pytest.raises(Owl2Error, match=r"another file than the one this run was trained with"):
        check_tokenizer_file(tmp_path, b"others")
