from __future__ import annotations

import json
from pathlib import Path

import pytest

from owl2_jax.convert.source import Source
from owl2_jax.core.errors import Owl2Error
from tests.convert.checkpoints import copy, rewrite, tensors

SHARDED = [("A/hf_sharded", "model.safetensors"), ("A/hf_sharded_bin", "pytorch_model.bin")]


def edit_index(directory: Path, name: str, change) -> None:
    path = directory / f"{name}.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_one_file_of_either_kind(tmp_path: Path, name: str) -> None:
    directory = copy("B/hf", tmp_path / "hf")
    expected = tensors(directory)
    rewrite(directory, expected, name)
    source = Source(directory)
    assert source.specs.keys() == expected.keys()
    assert (source.read("lm_head.weight") == expected["lm_head.weight"].numpy()).all()


@pytest.mark.parametrize(("layout", "name"), SHARDED)
def test_missing_shard(tmp_path: Path, layout: str, name: str) -> None:
    directory = copy(layout, tmp_path / "hf")
    shard = sorted(directory.glob("*-00003-of-*"))[0]
    shard.unlink()
    with pytest.raises(Owl2Error, match=rf"{shard.name} is missing; {name}\.index\.json names it"):
        Source(directory)


@pytest.mark.parametrize(("layout", "name"), SHARDED)
def test_truncated_shard(tmp_path: Path, layout: str, name: str) -> None:
    directory = copy(layout, tmp_path / "hf")
    shard = sorted(directory.glob("*-00002-of-*"))[0]
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(Owl2Error, match=shard.name):
        Source(directory)


@pytest.mark.parametrize(("layout", "name"), SHARDED)
def test_index_that_names_a_tensor_no_shard_has(tmp_path: Path, layout: str, name: str) -> None:
    directory = copy(layout, tmp_path / "hf")
    edit_index(
        directory, name, lambda weights: weights.update({"model.norm.weights": weights["model.norm.weight"]})
    )
    with pytest.raises(Owl2Error, match=r"does not have it \(nearest: model\.norm\.weight\)"):
        Source(directory)


@pytest.mark.parametrize(("layout", "name"), SHARDED)
def test_shard_with_a_tensor_that_the_index_leaves_out(tmp_path: Path, layout: str, name: str) -> None:
    directory = copy(layout, tmp_path / "hf")
    edit_index(directory, name, lambda weights: weights.pop("model.norm.weight"))
    with pytest.raises(Owl2Error, match=r"does not place there: \['model\.norm\.weight'\]"):
        Source(directory)


def test_index_that_leaves_the_directory(tmp_path: Path) -> None:
    directory = copy("A/hf_sharded", tmp_path / "hf")
    edit_index(directory, "model.safetensors", lambda weights: weights.update({"x": "../secret.safetensors"}))
    with pytest.raises(Owl2Error, match="no plain file name"):
        Source(directory)


def test_index_without_a_map_or_damaged(tmp_path: Path) -> None:
    directory = copy("A/hf_sharded", tmp_path / "hf")
    index = directory / "model.safetensors.index.json"
    for text, message in (("{}", "no weight_map"), ("{", "not readable JSON"), ("[]", "JSON object")):
        index.write_text(text)
        with pytest.raises(Owl2Error, match=message):
            Source(directory)


def test_directory_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Owl2Error, match=r"holds no weights: expected .*; found config\.json"):
        Source(tmp_path)
    with pytest.raises(Owl2Error, match="is no directory"):
        Source(tmp_path / "absent")


def test_config_missing(tmp_path: Path) -> None:
    directory = copy("B/hf", tmp_path / "hf")
    (directory / "config.json").unlink()
    with pytest.raises(Owl2Error, match=r"config\.json is missing"):
        Source(directory).config()
