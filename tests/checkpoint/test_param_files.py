from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from owl2_jax.checkpoint.param_files import (
    model_json,
    read_model_json,
    read_tokenizer,
    resolve_checkpoint,
    restore_params,
    write_model_directory,
)
from owl2_jax.core.errors import Owl2Error, UnknownNameError

MODEL = {"decoder": {"width": 8}}
PARAMS = {"decoder": {"layers": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}}


@pytest.fixture
def model_directory(tmp_path: Path) -> Path:
    write_model_directory(tmp_path / "model", model_json(MODEL), PARAMS, b"pieces")
    return tmp_path / "model"


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    """As training leaves it: steps 3 and 12, and one that was being written."""
    run = tmp_path / "run"
    with ocp.CheckpointManager(run / "checkpoints") as manager:
        for step in (3, 12):
            params = {"decoder": {"kernel": jnp.full((2,), step)}}
            manager.save(step, args=ocp.args.Composite(params=ocp.args.StandardSave(params)))
    (run / "checkpoints" / "20.orbax-checkpoint-tmp-1" / "params").mkdir(parents=True)
    (run / "model.json").write_text(json.dumps(model_json(MODEL)))
    (run / "tokenizer.model").write_bytes(b"pieces")
    return run


def test_model_directory_round_trip(model_directory: Path) -> None:
    found = resolve_checkpoint(model_directory)
    assert found.step is None
    assert read_model_json(found.directory) == model_json(MODEL)
    assert read_tokenizer(found.directory) == b"pieces"
    restored = restore_params(found.params)["decoder"]["layers"]["kernel"]
    np.testing.assert_array_equal(restored, PARAMS["decoder"]["layers"]["kernel"])


def test_model_without_tokenizer_says_so(tmp_path: Path) -> None:
    write_model_directory(tmp_path / "model", model_json(MODEL, tokenizer=None), PARAMS, None)
    assert read_model_json(tmp_path / "model")["tokenizer"] is None
    assert read_tokenizer(tmp_path / "model") is None


def test_existing_output_is_refused(model_directory: Path) -> None:
    with pytest.raises(Owl2Error, match="exists"):
        write_model_directory(model_directory, model_json(MODEL), PARAMS, b"pieces")
    assert read_tokenizer(model_directory) == b"pieces"


def test_latest_complete_step_of_a_run(run_directory: Path) -> None:
    found = resolve_checkpoint(run_directory)
    assert (found.directory, found.step) == (run_directory, 12)
    np.testing.assert_array_equal(restore_params(found.params)["decoder"]["kernel"], [12, 12])


def test_a_step_of_a_run_can_be_named(run_directory: Path) -> None:
    found = resolve_checkpoint(run_directory / "checkpoints" / "3")
    assert (found.directory, found.step) == (run_directory, 3)


def test_run_without_a_complete_step(run_directory: Path) -> None:
    shutil.rmtree(run_directory / "checkpoints" / "3")
    shutil.rmtree(run_directory / "checkpoints" / "12")
    with pytest.raises(Owl2Error, match=r"no complete step; it holds 20\.orbax-checkpoint-tmp-1"):
        resolve_checkpoint(run_directory)


def test_damaged_latest_step_is_an_error_and_not_passed_over(run_directory: Path) -> None:
    shutil.rmtree(run_directory / "checkpoints" / "12" / "params")
    with pytest.raises(Owl2Error, match=r"12/params is half-written or damaged.*give another step"):
        resolve_checkpoint(run_directory)


def test_directory_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(Owl2Error, match=r"neither params/ .* it holds notes\.txt"):
        resolve_checkpoint(tmp_path)
    with pytest.raises(Owl2Error, match="is not a directory"):
        resolve_checkpoint(tmp_path / "absent")


def test_model_directory_whose_parameters_are_half_written(model_directory: Path) -> None:
    (model_directory / "params" / "_METADATA").unlink()
    with pytest.raises(Owl2Error, match="params is half-written or damaged"):
        resolve_checkpoint(model_directory)


BAD_MODEL_FILES = [
    ("", "is damaged"),
    ("[]", "no 'model' group"),
    (json.dumps({"format": 1, "model": 3}), "no 'model' group"),
    (json.dumps({"format": 2, "model": {}}), "has format 2; this version reads format 1"),
    (json.dumps({"format": 1, "model": {}, "tokenizer": "gone.model"}), "names the tokenizer 'gone.model'"),
]


@pytest.mark.parametrize(("text", "message"), BAD_MODEL_FILES)
def test_bad_model_json(model_directory: Path, text: str, message: str) -> None:
    (model_directory / "model.json").write_text(text)
    with pytest.raises(Owl2Error, match=message):
        resolve_checkpoint(model_directory)


def test_model_json_missing_or_with_a_misspelt_key(model_directory: Path) -> None:
    (model_directory / "model.json").write_text(json.dumps({"format": 1, "model": {}, "image_mod": "pad"}))
    with pytest.raises(UnknownNameError, match="did you mean 'image_mode'"):
        read_model_json(model_directory)
    (model_directory / "model.json").unlink()
    with pytest.raises(Owl2Error, match=r"model\.json is missing"):
        read_model_json(model_directory)
