from __future__ import annotations

import logging
import shutil
import subprocess
from pathlib import Path
from unittest.mock import create_autospec
from urllib.parse import unquote

import jax
import pytest

from owl2_jax.checkpoint import failed_saves, run_checkpoints
from owl2_jax.checkpoint.best import BestConfig
from owl2_jax.checkpoint.local_config import LocalConfig
from owl2_jax.checkpoint.local_tier import LocalTier
from owl2_jax.checkpoint.param_files import resolve_checkpoint
from owl2_jax.checkpoint.run_checkpoints import Checkpoints
from owl2_jax.core.buckets import remove_folder, upload_folder
from owl2_jax.core.errors import Owl2Error
from owl2_jax.training.run_directory import is_complete, saved_step
from tests.environment import environment
from tests.training import runs


def opened(folder: Path, trainer, **settings) -> Checkpoints:
    return Checkpoints(folder, 2, fingerprint=trainer.fingerprint, **settings)


@pytest.fixture
def saved(straight, tmp_path) -> Path:
    """A copy of the run with steps 2 and 4."""
    return shutil.copytree(straight[0], tmp_path / "run")


def truncate(step: Path) -> None:
    largest = max((step / "params").rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def flip_a_bit(step: Path) -> None:
    largest = max((step / "train").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def lose_metadata(step: Path) -> None:
    (step / "params" / "_METADATA").unlink()


def lose_the_data_state(step: Path) -> None:
    shutil.rmtree(step / "data")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lose_metadata, lose_the_data_state])
def test_damaged_newest_step_is_set_aside_for_the_one_before(
    saved, config, trainer, straight, caplog, damage
):
    damage(saved / "checkpoints" / "4")
    with caplog.at_level(logging.WARNING):
        outcome, batches = runs.run(config, saved, trainer=trainer)
    assert "checkpoint of step 4 cannot be read" in caplog.text
    assert len(batches) == 2, "steps 3 and 4 were taken again"
    runs.assert_equal_trees(outcome.state, straight[1].state)
    assert (saved / "damaged" / "4").is_dir(), "nothing is deleted"


def test_half_written_step_of_a_killed_run_does_not_count(saved, config, trainer, straight):
    steps = saved / "checkpoints"
    (steps / "4").rename(steps / "4.orbax-checkpoint-tmp-1")
    outcome, batches = runs.run(config, saved, trainer=trainer)
    assert len(batches) == 2
    runs.assert_equal_trees(outcome.state, straight[1].state)
    assert sorted(path.name for path in steps.iterdir()) == ["2", "4"]


def test_no_readable_step_is_an_error_and_changes_nothing(saved, trainer):
    for step in ("2", "4"):
        lose_metadata(saved / "checkpoints" / step)
    before = sorted(saved.rglob("*"))
    with (
        opened(saved, trainer) as checkpoints,
        pytest.raises(Owl2Error, match=r"none of the checkpoints \[4, 2\] .* can be read"),
    ):
        checkpoints.restore(trainer.abstract_state())
    assert sorted(saved.rglob("*")) == before


def test_best_step_is_kept_besides_the_newest(trainer, straight, tmp_path):
    scores = {1: 0.5, 2: 0.9, 3: 0.7, 4: 0.6, 5: None}
    best = BestConfig(metric="easy_vqa/accuracy", mode="max")
    state = jax.device_put(straight[1].state)
    with opened(tmp_path, trainer, best=best) as checkpoints:
        for step, score in scores.items():
            numbered = state.replace(step=jax.numpy.int32(step))
            checkpoints.save(numbered, {}, {} if score is None else {best.metric: score})
        checkpoints.wait()
        assert checkpoints.steps == [2, 4, 5]
        assert checkpoints.best_step(best) == 2
    # A restart knows the scores, and another choice may hold from now on.
    least = BestConfig(metric="easy_vqa/accuracy", mode="min")
    with opened(tmp_path, trainer, best=least) as checkpoints:
        assert checkpoints.best_step(least) == 4


def test_an_error_of_an_asynchronous_save_is_told(tmp_path):
    """A disk that takes only small files: the save begins, and fails after the step that began it."""
    config = runs.write_config(tmp_path / "small.py")
    command = runs.train_command(config, tmp_path / "run", "train.total_steps=6", "train.save_every_steps=1")
    limited = ["bash", "-c", 'ulimit -f 200; exec "$@"', "limited", *command]  # blocks of 1024 bytes
    done = subprocess.run(limited, capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    line = [line for line in done.stderr.splitlines() if line.startswith("error: ")][-1]
    assert "a checkpoint could not be saved" in line
    assert "Whole ones: none" in line
    assert "Traceback" not in done.stderr


def test_steps_in_a_bucket_count_once_they_are_committed(saved, config, trainer, straight, bucket):
    upload_folder(saved, bucket)
    for step in ("2", "4"):
        (bucket / "checkpoints" / step / "commit_success.txt").write_text("done")
    (bucket / "checkpoints" / "4" / "commit_success.txt").unlink()
    assert saved_step(bucket) == 2
    assert not is_complete(bucket, 4)
    assert resolve_checkpoint(bucket).step == 2
    with pytest.raises(Owl2Error, match=r"checkpoints/4 is half-written: commit_success.txt is missing"):
        resolve_checkpoint(bucket / "checkpoints" / "4")
    outcome, batches = runs.run(config, bucket, trainer=trainer)
    assert len(batches) == 2
    runs.assert_equal_trees(outcome.state, straight[1].state)
    assert resolve_checkpoint(bucket).step == 4


def test_a_damaged_step_in_a_bucket_is_set_aside(saved, config, trainer, straight, bucket):
    upload_folder(saved, bucket)
    for step in ("2", "4"):
        (bucket / "checkpoints" / step / "commit_success.txt").write_text("done")
    (bucket / "checkpoints" / "4" / "params" / "_METADATA").unlink()
    outcome, batches = runs.run(config, bucket, trainer=trainer)
    assert len(batches) == 2
    runs.assert_equal_trees(outcome.state, straight[1].state)
    assert (bucket / "damaged" / "4").is_dir()


def test_a_restart_on_the_same_host_reads_no_checkpoint_of_the_bucket(
    trainer, straight, bucket, bucket_server, tmp_path
):
    local = {"folder": str(tmp_path / "disk"), "every_steps": 1, "keep": 4}
    config = runs.run_config(f"train.local_checkpoints={local}")
    own = runs.trainer_of(config)
    runs.run(config, bucket, trainer=own)
    remove_folder(bucket / "checkpoints" / "4")
    bucket_server.requests.clear()
    outcome, batches = runs.run(config, bucket, trainer=own)
    assert len(batches) == 1, "step 3 was on the disk"
    runs.assert_equal_trees(outcome.state, straight[1].state)
    read = [unquote(path) for method, path in bucket_server.requests if "alt=media" in path]
    assert read
    assert not [path for path in read if "checkpoints/2/params" in path or "checkpoints/2/train" in path]


def test_local_steps_are_those_of_one_run_alone(trainer, tmp_path):
    local = {"folder": str(tmp_path / "disk"), "every_steps": 1}
    config = runs.run_config(f"train.local_checkpoints={local}", "train.total_steps=2")
    own = runs.trainer_of(config)
    runs.run(config, tmp_path / "run", trainer=own)
    _, batches = runs.run(config, tmp_path / "another", trainer=own)
    assert len(batches) == 2


def test_a_save_that_cannot_be_finished_is_told_and_the_next_one_counts(
    straight, bucket, bucket_server, caplog
):
    config = runs.run_config("train.max_failed_saves=1", "train.save_every_steps=1")
    own = runs.trainer_of(config)
    bucket_server.fail = lambda method, path: (
        403 if method in ("POST", "PUT") and "checkpoints%2F2%2F" in path.replace("/", "%2F") else None
    )
    with caplog.at_level(logging.WARNING):
        outcome, _ = runs.run(config, bucket, trainer=own)
    assert "a checkpoint could not be saved in gs://bucket/" in caplog.text
    assert "The run goes on; no more in a row may fail" in caplog.text
    runs.assert_equal_trees(outcome.state, straight[1].state)
    with opened(bucket, own) as checkpoints:
        assert checkpoints.steps == [3, 4]


def test_failures_on_a_hosts_own_disk_count_in_a_row_by_themselves_and_reopen_nothing(
    trainer, straight, tmp_path
):
    full = Owl2Error("no space left")
    local = create_autospec(LocalTier, instance=True)
    local.wait.side_effect = [None, full, None, full, None, full, full]
    state = jax.device_put(straight[1].state)
    with opened(tmp_path, trainer, local=local, may_fail=1) as checkpoints:
        manager = checkpoints._manager
        for _ in range(5):
            checkpoints.save_locally(state, {})
        checkpoints.save(state, {})  # the third failure, after good ones
        checkpoints.save(state, {}, last=True)
        assert checkpoints._manager is manager
        with pytest.raises(Owl2Error, match="no space left"):
            checkpoints.save_locally(state, {})
    assert local.save.call_count == 6


def test_a_save_that_fails_on_another_host_alone_is_answered_here_too(
    trainer, straight, tmp_path, monkeypatch, caplog
):
    """All hosts open the checkpoints again, as that is something they do together."""
    state = jax.device_put(straight[1].state)
    with opened(tmp_path, trainer, may_fail=1) as checkpoints:
        manager = checkpoints._manager
        checkpoints.save(state, {})
        told = iter(["host 1: a checkpoint could not be saved", ""])
        monkeypatch.setattr(failed_saves, "any_trouble", lambda trouble: next(told))
        checkpoints.save(state.replace(step=jax.numpy.int32(5)), {})
        assert checkpoints._manager is not manager
        checkpoints.wait()
        assert checkpoints.steps == [4, 5]
    assert "host 1: a checkpoint could not be saved. The run goes on" in caplog.text


def test_a_local_step_that_hosts_have_of_different_saves_is_refused(
    saved, trainer, straight, tmp_path, monkeypatch, caplog
):
    """Each host's replicas may match what lay beside them on its disk, and no other host's."""
    fingerprints = []

    def gather(values):
        if isinstance(values, list):  # of the saves on the disks
            return [values, values]
        fingerprints.append(values)
        return [values, {"params": {}} if len(fingerprints) == 1 else values]

    monkeypatch.setattr(run_checkpoints, "all_gather", gather)
    local = LocalTier(LocalConfig(str(tmp_path / "disk")), "run", 1)
    with opened(saved, trainer, local=local) as checkpoints:
        checkpoints.save_locally(jax.device_put(straight[1].state), {"from": "the disk"})
        local.wait()
        state, data = checkpoints.restore(trainer.abstract_state())
    assert int(state.step) == 4
    assert data != {"from": "the disk"}
    assert "step 4 cannot be read from the hosts' own disks (the hosts have it of different saves)" in (
        caplog.text
    )
    assert len(fingerprints) == 2
