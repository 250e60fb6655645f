from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from owl2_jax.convert.source import Source, wrapper_of
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
    with pytest.raises(Owl2Error, match="no plain file name; put the shards beside the index, and"):
        Source(directory)
    name = next(directory.glob("model-*.safetensors")).name
    for path in (f"/data/hf/{name}", f"C:\\hf\\{name}"):
        edit_index(directory, "model.safetensors", lambda weights, path=path: weights.update({"x": path}))
        with pytest.raises(Owl2Error, match=rf"no plain file name; {name} is beside the index: write"):
            Source(directory)


def test_a_key_that_stands_twice_in_the_config_is_refused(tmp_path: Path) -> None:
    directory = copy("A/hf_sharded", tmp_path / "hf")
    path = directory / "config.json"
    path.write_text(path.read_text().replace("{", '{"hidden_size": 1, ', 1))
    with pytest.raises(Owl2Error, match=r"config\.json is not to be read: the key 'hidden_size' stands tw"):
        Source(directory).config()


def test_index_without_a_map_or_damaged(tmp_path: Path) -> None:
    directory = copy("A/hf_sharded", tmp_path / "hf")
    index = directory / "model.safetensors.index.json"
    for text, message in (("{}", "no weight_map"), ("{", "not valid JSON"), ("[]", "JSON object")):
        index.write_text(text)
        with pytest.raises(Owl2Error, match=message):
            Source(directory)


def test_directory_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Owl2Error, match=r"holds no weights: expected .*; found config\.json"):
        Source(tmp_path)
    with pytest.raises(Owl2Error, match="is not a directory"):
        Source(tmp_path / "absent")


def test_config_missing(tmp_path: Path) -> None:
    directory = copy("B/hf", tmp_path / "hf")
    (directory / "config.json").unlink()
    with pytest.raises(Owl2Error, match=r"config\.json is missing"):
        Source(directory).config()


@pytest.mark.parametrize(("layout", "name"), SHARDED)
def test_shard_that_is_a_folder(tmp_path: Path, layout: str, name: str) -> None:
    directory = copy(layout, tmp_path / "hf")
    shard = sorted(directory.glob("*-00002-of-*"))[0]
    shard.unlink()
    shard.mkdir()
    with pytest.raises(Owl2Error, match=rf"{shard.name} is a folder, expected a file"):
        Source(directory)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_whole_file_that_is_a_folder_a_pointer_or_a_web_page(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir()
    with pytest.raises(Owl2Error, match="is a folder, expected a file"):
        Source(tmp_path)
    path.rmdir()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    for content, message in ((pointer, "git lfs pull"), (b"<html>", "a web page; the download")):
        path.write_bytes(content)
        with pytest.raises(Owl2Error, match=message):
            Source(tmp_path)


@pytest.mark.parametrize(("layout", "name"), SHARDED)
def test_whole_file_counts_where_a_stale_index_lies_beside_it(tmp_path: Path, layout: str, name: str) -> None:
    """transformers looks for the whole file first."""
    directory = copy(layout, tmp_path / "hf")
    values = tensors(directory)
    index = (directory / f"{name}.index.json").read_bytes()
    values["model.norm.weight"] += 1
    rewrite(directory, values, name)
    (directory / f"{name}.index.json").write_bytes(index)
    source = Source(directory)
    assert (source.read("model.norm.weight") == values["model.norm.weight"].numpy()).all()
    (note,) = source.notes
    assert f"{name}.index.json beside it was not; remove" in note


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefix_of_a_wrapper_is_taken_off_and_named(tmp_path: Path, name: str, wrapper: str) -> None:
    directory = copy("B/hf", tmp_path / "hf")
    plain = tensors(directory)
    rewrite(directory, {wrapper + key: value for key, value in plain.items()}, name)
    source = Source(directory)
    assert source.specs.keys() == plain.keys()
    assert (source.read("lm_head.weight") == plain["lm_head.weight"].numpy()).all()
    assert source.notes == [f"every tensor of {directory} has {wrapper} before its name; it was taken off"]


def test_prefix_of_some_names_stays() -> None:
    assert wrapper_of(["module.a", "b"]) == ""
    assert wrapper_of(["module.module.a", "module.b"]) == "module."
    assert wrapper_of([]) == ""


def test_index_with_names_that_are_no_text(tmp_path: Path) -> None:
    directory = copy("A/hf_sharded", tmp_path / "hf")
    for shard in (None, 3, ["a"], "a\0b", "", "..", "../x"):
        edit_index(directory, "model.safetensors", lambda weights, s=shard: weights.update({"x": s}))
        with pytest.raises(Owl2Error, match="no plain file name"):
            Source(directory)


def test_byte_order_mark_in_config_and_index(tmp_path: Path) -> None:
    directory = copy("A/hf_sharded", tmp_path / "hf")
    for name in ("config.json", "model.safetensors.index.json"):
        path = directory / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    source = Source(directory)
    assert source.config()["model_type"] == "mplug_owl2"


def test_a_directory_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch) -> None:
    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", forbidden)
    with pytest.raises(Owl2Error, match="is there, but this user may not read it"):
        Source(tmp_path)
