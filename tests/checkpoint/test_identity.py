"""What tells checkpoints apart."""

from __future__ import annotations

import os

import pytest

from owl2_jax.checkpoint.identity import checkpoint_identity
from owl2_jax.checkpoint.param_files import model_json, write_model_directory
from owl2_jax.core.errors import Owl2Error


def test_own_directories_have_an_identity_that_training_changes(
    tmp_path, tiny_config, tiny_params, toy_tokenizer
):
    path = tmp_path / "model"
    write_model_directory(path, model_json(tiny_config.to_dict()), tiny_params, toy_tokenizer.bytes)
    first = checkpoint_identity(path)
    assert first == checkpoint_identity(path)
    file = next(file for file in (path / "params").rglob("*") if file.is_file())
    os.utime(file, ns=(1, 1))
    assert checkpoint_identity(path) != first


def test_released_directories_too(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"1")
    first = checkpoint_identity(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"12")
    assert checkpoint_identity(tmp_path) != first


def test_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(Owl2Error, match="checkpoint"):
        checkpoint_identity(tmp_path / "none")
