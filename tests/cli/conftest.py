"""A model directory and images for the commands."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from owl2_jax.checkpoint.param_files import model_json, write_model_directory
from owl2_jax.testing import tiny


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tiny_config, tiny_params, toy_tokenizer) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "model"
    write_model_directory(
        path, model_json(tiny_config.to_dict()), jax.device_get(tiny_params), toy_tokenizer.bytes
    )
    return path


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A folder with 0.png, 1.png, 2.png and broken.png."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(3):
        (folder / f"{number}.png").write_bytes(tiny.image_file(number))
    (folder / "broken.png").write_bytes(tiny.image_file(0)[:60])
    return folder
