"""`owl2_jax.load`: every kind of checkpoint directory, and clear errors for the rest."""

from __future__ import annotations

import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import owl2_jax
from owl2_jax import loading
from owl2_jax.checkpoint import array_reader
from owl2_jax.checkpoint.param_files import model_json, write_model_directory
from owl2_jax.convert import load
from owl2_jax.convert.load import load_hf
from owl2_jax.convert.to_torch import convert_to_torch
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.prompt_format import PromptFormat
from owl2_jax.core.tree import flatten
from owl2_jax.inference import quantize
from owl2_jax.model.modality_projections import MERGED
from owl2_jax.parallel.mesh import make_mesh


@pytest.fixture(scope="module")
def directory(tmp_path_factory, tiny_config, tiny_params, toy_tokenizer):
    path = tmp_path_factory.mktemp("load") / "model"
    settings = model_json(tiny_config.to_dict(), prompt_format=PromptFormat(image_mode="pad"))
    write_model_directory(path, settings, jax.device_get(tiny_params), toy_tokenizer.bytes)
    return path


def test_model_directory_comes_back_whole(directory, tiny_config, tiny_params, toy_tokenizer):
    model = owl2_jax.load(directory)
    assert model.config == tiny_config
    assert model.tokenizer.bytes == toy_tokenizer.bytes
    assert (model.prompt_format, model.name) == (PromptFormat(image_mode="pad"), "model")
    found, expected = flatten(model.params), flatten(tiny_params)
    assert found.keys() == expected.keys()
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, expected[name], err_msg=name)


def test_dtype_can_be_chosen(directory):
    model = owl2_jax.load(directory, dtype="bfloat16")
    assert model.config.dtype == model.config.param_dtype == "bfloat16"
    assert {leaf.dtype.name for leaf in flatten(model.params).values()} == {"bfloat16"}


def test_matrices_are_laid_out_for_serving_on_a_tpu_alone(directory, monkeypatch):
    def order(name: str) -> tuple[int, ...]:
        params = flatten(owl2_jax.load(directory).params)
        return params[f"decoder/layers/attention/{name}/kernel"].format.layout.major_to_minor

    assert order("q") == (0, 1, 2, 3)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert order(MERGED) == (0, 2, 3, 4, 1)


def test_loads_straight_onto_a_mesh(directory, tiny_params):
    mesh = make_mesh({"data": 4, "tensor": 2})
    model = owl2_jax.load(directory, mesh=mesh)
    gate = model.params["decoder"]["layers"]["mlp"]["gate"]["kernel"]
    expected = tiny_params["decoder"]["layers"]["mlp"]["gate"]["kernel"]
    assert {shard.data.shape[-1] for shard in gate.addressable_shards} == {expected.shape[-1] // 2}
    np.testing.assert_array_equal(gate, expected)


def test_a_released_directory_goes_onto_a_mesh_leaf_by_leaf(directory, tiny_params, tmp_path, monkeypatch):
    """Each leaf goes to the devices before the next is read; the host never holds the whole model."""
    convert_to_torch(directory, tmp_path / "released", dtype="float32")
    steps = []

    def watch(module, name):
        function = getattr(module, name)

        def watched(*arguments, **options):
            steps.append(name)
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, watched)

    watch(load, "materialize")
    watch(jax, "device_put")
    model = owl2_jax.load(tmp_path / "released", mesh=make_mesh({"data": 4, "tensor": 2}))
    found, expected = flatten(model.params), flatten(tiny_params)
    assert steps == ["materialize", "device_put"] * len(found)
    for name, leaf in found.items():
        assert len(leaf.sharding.device_set) == 8
        np.testing.assert_array_equal(leaf, expected[name], err_msg=name)
    gate = found["decoder/layers/mlp/gate/kernel"]
    assert {shard.data.shape[-1] for shard in gate.addressable_shards} == {gate.shape[-1] // 2}


def test_int8_is_a_choice_at_loading(directory):
    model = owl2_jax.load(directory, int8=True)
    assert model.params["decoder"]["head"]["kernel"].dtype == np.int8


def test_int8_rounds_each_matrix_before_the_next_is_read(directory, monkeypatch):
    """Memory holds one matrix as it was stored, beside those in int8."""
    whole, events, given_up = owl2_jax.load(directory), [], []

    def is_kernel(name):
        return name.startswith("decoder/") and name.endswith("/kernel")

    def restore(params, targets):
        events.append(("read", *targets))
        return real_restore(params, targets)

    def rounded(name, leaf):
        given_up.append(jax.numpy.asarray(leaf))
        found = quantize.quantize_loaded(name, given_up[-1])
        events.append(("rounded", name))
        assert given_up[-1].is_deleted() == is_kernel(name), "before the next is read"
        return found

    real_restore = array_reader._restore
    monkeypatch.setattr(array_reader, "_restore", restore)
    monkeypatch.setattr(loading, "quantize_loaded", rounded)
    small = owl2_jax.load(directory, int8=True)
    names = [name for _, name in events[::2]]
    assert events == [(what, name) for name in names for what in ("read", "rounded")]
    assert set(names) == set(flatten(whole.params))
    kernels = [is_kernel(name) for name in names]
    assert [one.is_deleted() for one in given_up] == kernels
    assert any(kernels)
    expected = flatten(quantize.quantize_model(whole).params)
    found = flatten(small.params)
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(found[name], leaf)


def test_int8_of_a_released_directory_rounds_each_matrix_as_it_comes(golden_directory):
    directory = golden_directory / "A" / "hf"
    whole = flatten(load_hf(directory).params)
    small = flatten(load_hf(directory, each=quantize.quantize_loaded).params)
    kernels = [name for name in whole if name.startswith("decoder/") and name.endswith("/kernel")]
    assert len(small) == len(whole) + len(kernels)
    assert {small[name].dtype for name in kernels} == {np.dtype(np.int8)}


def test_released_directory_without_a_tokenizer_is_refused(golden_directory):
    with pytest.raises(Owl2Error, match="tokenizer"):
        owl2_jax.load(golden_directory / "A" / "hf")


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_directory_without_a_model_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Owl2Error, match=name):
        owl2_jax.load(tmp_path / name)


def test_import_is_quick():
    """Takes a fraction of the two seconds it may take, because JAX is not imported."""
    begin = time.monotonic()
    code = "import sys, owl2_jax; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert time.monotonic() - begin < 2
