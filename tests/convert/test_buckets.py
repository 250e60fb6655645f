"""Released directories in a bucket: read by parts and written in one pass, with nothing on a disk."""

from __future__ import annotations

import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

from owl2_jax.checkpoint.param_files import (
    model_json,
    resolve_checkpoint,
    restore_params,
    write_model_directory,
)
from owl2_jax.cli.main import main
from owl2_jax.convert.init_from import init_checkpoint
from owl2_jax.convert.load import load_hf
from owl2_jax.convert.peft import export_peft, import_peft
from owl2_jax.convert.source import Source
from owl2_jax.convert.to_flax import load_hf_params
from owl2_jax.convert.to_torch import convert_to_torch
from owl2_jax.core.buckets import names_in, upload_folder
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import flatten
from owl2_jax.model.config import LoraConfig
from owl2_jax.model.owl2 import abstract_params
from owl2_jax.testing import tiny
from tests.convert.checkpoints import GOLDEN
from tests.convert.starting_points import LlamaSizes, write_clip, write_llama

# Of mPLUG-Owl2 in pickled shards, and of mPLUG-Owl2.1, whose projections are one tensor.
LAYOUTS = {"A/hf_sharded_bin": "400KB", "F/hf": "5GB"}


def convert(*arguments: object) -> int:
    return main(["convert", *map(str, arguments)])


@pytest.fixture
def no_disk(monkeypatch):
    """No temporary file can be made."""

    def refuse(*arguments, **options):
        raise AssertionError("a temporary file")

    for name in ("TemporaryDirectory", "NamedTemporaryFile", "mkdtemp", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A model directory with adapters."""
    config = tiny.tiny_config().replace(lora=LoraConfig(rank=3, alpha=6.0))
    chance = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: chance.standard_normal(leaf.shape).astype(np.float32), abstract_params(config)
    )
    directory = tmp_path_factory.mktemp("lora") / "adapted"
    write_model_directory(directory, model_json(config.to_dict(), tokenizer=None), params, None)
    return directory


def parameters(directory) -> dict[str, np.ndarray]:
    return flatten(restore_params(resolve_checkpoint(directory).params))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_gives_the_same_tensors_and_no_disk_is_written(layout, bucket, tmp_path, no_disk):
    upload_folder(GOLDEN / layout, bucket / "hf")
    assert convert("to-jax", "--source", bucket / "hf", "--output", bucket / "model") == 0
    there, here = parameters(bucket / "model"), flatten(load_hf_params(GOLDEN / layout)[1])
    assert there.keys() == here.keys()
    assert all(np.array_equal(there[name], here[name]) for name in here)

    sizes = ("--max-shard-size", LAYOUTS[layout])
    assert convert("to-torch", "--checkpoint", bucket / "model", "--output", bucket / "back", *sizes) == 0
    found, expected = Source(bucket / "back"), Source(GOLDEN / layout)
    for name, spec in found.specs.items():
        assert spec == expected.specs[name]
        assert found.read(name).tobytes() == expected.read(name).tobytes()
    names = set(names_in(bucket / "back"))
    assert {"config.json", "generation_config.json", "preprocessor_config.json"} < names
    assert ("model.safetensors" in names) != ("model.safetensors.index.json" in names)


def test_a_released_directory_in_a_bucket_is_loaded_like_one_on_a_disk(bucket):
    upload_folder(GOLDEN / "A/hf_sharded", bucket / "hf")
    there, here = load_hf(bucket / "hf"), load_hf(GOLDEN / "A/hf_sharded")
    assert there.config == here.config
    expected = flatten(here.params)
    assert all(np.array_equal(values, expected[name]) for name, values in flatten(there.params).items())


def test_an_export_that_fails_leaves_nothing_in_the_bucket(bucket, bucket_server, tmp_path):
    assert convert("to-jax", "--source", GOLDEN / "A/hf", "--output", tmp_path / "model") == 0
    bucket_server.fail = lambda method, path: 403 if "model-00002" in path else None
    with pytest.raises(Owl2Error, match="this account may not do that"):
        convert_to_torch(tmp_path / "model", bucket / "back", max_shard_size="200KB")
    bucket_server.fail = lambda method, path: None
    assert not (bucket / "back").exists()


def test_what_is_no_released_directory_in_a_bucket_is_told_at_once(bucket, capsys):
    (bucket / "hf" / "config.json").write_text("{}")
    for name, words in (("none", "no such bucket, or no such object in it"), ("hf", "holds no weights")):
        assert convert("to-jax", "--source", bucket / name, "--output", bucket / "model") == 2
        error = capsys.readouterr().err
        assert f"{bucket / name}" in error
        assert words in error
    assert not Path("gs:").exists()


def test_adapters_are_exported_imported_and_merged_in_a_bucket(bucket, tmp_path, adapted):
    upload_folder(adapted, bucket / "adapted")
    there, here = bucket / "mplug_owl2_lora", tmp_path / "mplug_owl2_lora"
    assert convert("export-lora", "--checkpoint", bucket / "adapted", "--output", there) == 0
    export_peft(adapted, here)
    for name in names_in(here):
        assert (there / name).read_bytes() == (here / name).read_bytes()
    assert convert("merge-lora", "--checkpoint", bucket / "adapted", "--output", tmp_path / "merged") == 0
    base = ("--checkpoint", tmp_path / "merged", "--adapter", there)
    assert convert("import-lora", *base, "--output", bucket / "again") == 0
    import_peft(tmp_path / "merged", here, tmp_path / "again")
    found, expected = parameters(bucket / "again"), parameters(tmp_path / "again")
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_a_start_is_made_of_weights_in_a_bucket(bucket, tmp_path, toy_tokenizer):
    write_llama(tmp_path / "llama", LlamaSizes(vocab_size=toy_tokenizer.vocab_size), toy_tokenizer.bytes)
    write_clip(tmp_path / "clip")
    upload_folder(tmp_path, bucket)
    sizes = {"image_size": 28, "num_queries": 3, "abstractor_layers": 1}
    flags = [f"--{name.replace('_', '-')}={size}" for name, size in sizes.items()]
    sources = ("--llama", bucket / "llama", "--clip", bucket / "clip")
    assert convert("init", *sources, "--output", bucket / "start", *flags) == 0
    init_checkpoint(tmp_path / "llama", tmp_path / "clip", tmp_path / "start", **sizes)
    there, here = parameters(bucket / "start"), parameters(tmp_path / "start")
    assert all(np.array_equal(there[name], here[name]) for name in here)


def test_verify_reads_checkpoint_and_golden_file_of_a_bucket(bucket, tmp_path, capsys):
    upload_folder(GOLDEN / "B/hf", bucket / "hf")
    with np.load(GOLDEN / "B" / "golden.npz") as file:
        np.savez(tmp_path / "g.npz", **{n: file[n] for n in ("vision/pixel_values", "vision/embeddings")})
    (bucket / "g.npz").write_bytes((tmp_path / "g.npz").read_bytes())
    assert convert("verify", "--checkpoint", bucket / "hf", "--golden", bucket / "g.npz") == 0
    assert capsys.readouterr().out.endswith("all 1 arrays are within tolerance\n")
