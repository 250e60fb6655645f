from __future__ import annotations

import functools
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from owl2_jax.checkpoint.param_files import model_json, write_model_directory
from owl2_jax.convert.buffers import buffer_shapes
from owl2_jax.convert.hf_config import read_hf_config
from owl2_jax.convert.safetensors_file import TensorSpec
from owl2_jax.convert.to_flax import convert_to_jax, leaf_shapes, load_hf_params
from owl2_jax.convert.to_torch import convert_to_torch, parse_size, plan_shards
from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.core.tree import flatten, unflatten
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.owl2 import Owl2
from tests.convert.checkpoints import GOLDEN, LAYOUTS, bits, tensors


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def converted(layout: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("converted") / "model"
    convert_to_jax(GOLDEN / layout, output)
    return output


@pytest.fixture
def model_directory(tmp_path: Path, tiny_config, tiny_params, toy_tokenizer) -> Path:
    write_model_directory(
        tmp_path / "model", model_json(tiny_config.to_dict()), tiny_params, toy_tokenizer.bytes
    )
    return tmp_path / "model"


def test_pytorch_gets_back_every_tensor_bit_for_bit(layout: str, converted: Path, tmp_path: Path) -> None:
    files = convert_to_torch(converted, tmp_path / "hf", with_buffers=True)
    assert files == ["model.safetensors"]
    loaded, original = load_file(tmp_path / "hf" / "model.safetensors"), tensors(GOLDEN / layout)
    assert loaded.keys() == original.keys()
    for name, tensor in original.items():
        assert (loaded[name].shape, loaded[name].dtype) == (tensor.shape, torch.float32), name
        assert bits(loaded[name]) == bits(tensor), name


def test_config_and_generation_config_equal_the_originals(
    layout: str, converted: Path, tmp_path: Path
) -> None:
    convert_to_torch(converted, tmp_path / "hf")
    for name in ("config.json", "generation_config.json"):
        written = json.loads((tmp_path / "hf" / name).read_text())
        assert written == json.loads((GOLDEN / layout / name).read_text()), name


def test_buffers_are_written_only_on_request(tmp_path: Path) -> None:
    convert_to_jax(GOLDEN / "B/hf", tmp_path / "model")
    convert_to_torch(tmp_path / "model", tmp_path / "hf")
    config = read_hf_config(json.loads((tmp_path / "hf" / "config.json").read_text()))
    names = load_file(tmp_path / "hf" / "model.safetensors").keys()
    assert names == tensors(GOLDEN / "B/hf").keys() - buffer_shapes(config).keys()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes_are_exact_to_rounding(tmp_path: Path, kind: torch.dtype) -> None:
    name = str(kind).removeprefix("torch.")
    convert_to_jax(GOLDEN / "B/hf", tmp_path / "model")
    convert_to_torch(tmp_path / "model", tmp_path / "hf", dtype=name)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["torch_dtype"] == name
    original = tensors(GOLDEN / "B/hf")
    for key, tensor in load_file(tmp_path / "hf" / "model.safetensors").items():
        assert tensor.dtype == kind
        assert bits(tensor) == bits(original[key].to(kind)), key
    config, params = load_hf_params(tmp_path / "hf", dtype="float32")
    assert config.decoder.width == 48
    np.testing.assert_array_equal(
        params["decoder"]["embedding"], original["model.embed_tokens.weight"].to(kind).float().numpy()
    )


def test_shards_stay_below_the_limit_and_the_index_names_every_tensor(tmp_path: Path) -> None:
    convert_to_jax(GOLDEN / "A/hf", tmp_path / "model")
    files = convert_to_torch(tmp_path / "model", tmp_path / "hf", max_shard_size="150KB")
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    assert len(files) > 3
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    merged = {}
    for file in files:
        part = load_file(tmp_path / "hf" / file)
        assert sum(t.nbytes for t in part.values()) <= 150_000
        assert all(index["weight_map"][name] == file for name in part)
        merged |= part
    assert merged.keys() == index["weight_map"].keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in merged.values())
    jax.tree.map(
        np.testing.assert_array_equal, load_hf_params(tmp_path / "hf")[1], load_hf_params(GOLDEN / "A/hf")[1]
    )


def test_a_tensor_larger_than_the_limit_has_a_shard_of_its_own() -> None:
    specs = {
        name: TensorSpec((size,), np.dtype("u1")) for name, size in zip("abcd", (4, 9, 3, 3), strict=True)
    }
    assert plan_shards(specs, 6) == [["a"], ["b"], ["c", "d"]]


def test_sizes_with_units() -> None:
    assert parse_size("5GB") == 5 * 10**9
    assert parse_size("1.5 MiB") == 3 * 2**19
    assert parse_size(700) == 700
    for wrong in ("5GX", "", "-3GB", "0", "GB", "9" * 400 + "GB"):
        with pytest.raises(Owl2Error, match="write for example 5GB"):
            parse_size(wrong)


def test_tokenizer_and_preprocessor_files(
    model_directory: Path, tmp_path: Path, toy_tokenizer, tiny_config
) -> None:
    convert_to_torch(model_directory, tmp_path / "hf")
    assert (tmp_path / "hf" / "tokenizer.model").read_bytes() == toy_tokenizer.bytes
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        expected = json.loads((GOLDEN / "text" / "hf_legacy" / name).read_text())
        if "model_max_length" in expected:
            expected["model_max_length"] = tiny_config.decoder.max_length
        assert json.loads((tmp_path / "hf" / name).read_text()) == expected
    expected = json.loads((GOLDEN / "images" / "preprocessor_config.json").read_text())
    expected["crop_size"] = {"height": 28, "width": 28}
    expected["size"] = {"shortest_edge": 28}
    assert json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text()) == expected


@pytest.fixture(scope="module")
def inputs(tiny_config) -> tuple:
    """One row with an image between text."""
    row = jnp.arange(tiny_config.tokens_per_image + 4, dtype=jnp.int32)[None]
    images = jax.random.normal(jax.random.key(0), (1, 28, 28, 3))
    slot = jnp.zeros((1, 1), jnp.int32)
    return row + 5, row, jnp.ones_like(row), images, slot, slot + 1


@functools.cache
def forward(config: Owl2Config) -> Callable[..., Any]:
    return jax.jit(lambda params, *inputs: Owl2(config).apply({"params": params}, *inputs))


@pytest.mark.parametrize("adaptive", ["norms", "kv", "none"])
def test_models_with_fewer_branches_give_the_same_logits_in_the_released_format(
    tmp_path: Path, adaptive: str, tiny_config, tiny_params, inputs: tuple
) -> None:
    config = tiny_config.replace(**{"decoder.adaptive": adaptive})
    flat = flatten(tiny_params)
    params = unflatten({name: flat[name] for name in leaf_shapes(config)})
    write_model_directory(tmp_path / "model", model_json(config.to_dict(), tokenizer=None), params, None)
    convert_to_torch(tmp_path / "model", tmp_path / "hf")
    full, restored = load_hf_params(tmp_path / "hf")
    assert full.decoder.adaptive == "full"
    actual, expected = forward(full)(restored, *inputs), forward(config)(params, *inputs)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.fixture
def edited(tmp_path: Path, tiny_config, tiny_params) -> Callable[[Callable[[dict], Any]], Path]:
    """Makes a model directory of tiny parameters, some of them changed."""

    def make(change: Callable[[dict], Any]) -> Path:
        flat = {name: np.array(leaf) for name, leaf in flatten(tiny_params).items()}
        change(flat)
        model = model_json(tiny_config.to_dict(), tokenizer=None)
        write_model_directory(tmp_path / "model", model, unflatten(flat), None)
        return tmp_path / "model"

    return make


def test_values_beyond_float16_are_named(tmp_path: Path, edited) -> None:
    def change(flat: dict) -> None:
        flat["decoder/layers/mlp/up/kernel"][1, 2, 3] = 1e5

    model = edited(change)
    with pytest.raises(Owl2Error, match=r"mlp/up/kernel has values beyond float16 \(largest 1e\+05\)"):
        convert_to_torch(model, tmp_path / "hf", dtype="float16")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_checkpoint_that_does_not_fit_its_own_configuration(tmp_path: Path, edited) -> None:
    model = edited(lambda flat: flat.update({"decoder/embeddings": flat.pop("decoder/embedding")}))
    with pytest.raises(Owl2Error, match=r"missing: decoder/embedding \(nearest: decoder/embeddings\)"):
        convert_to_torch(model, tmp_path / "hf")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_damaged_checkpoint_leaves_no_output(model_directory: Path, tmp_path: Path) -> None:
    chunk = model_directory / "params" / "decoder.layers.mlp.up.kernel" / "1.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-5])
    with pytest.raises(Owl2Error, match=r"params is damaged: .*decoder\.layers\.mlp\.up\.kernel/1\.0\.0"):
        convert_to_torch(model_directory, tmp_path / "hf")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_unknown_dtype_and_existing_output(model_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'float16'"):
        convert_to_torch(model_directory, tmp_path / "hf", dtype="float61")
    (tmp_path / "hf").mkdir()
    with pytest.raises(Owl2Error, match="exists"):
        convert_to_torch(model_directory, tmp_path / "hf")


def test_disk_that_fills_up(model_directory: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(Owl2Error, match=r"no space left while writing .*hf; nothing was kept"):
            convert_to_torch(model_directory, tmp_path / "hf")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
