from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from owl2_jax.convert.buffers import buffer_shapes
from owl2_jax.convert.qwen_weight_names import OWL2_1, OWL2_1_PLAIN, QWEN
from owl2_jax.convert.to_flax import leaf_shapes, load_hf_params
from owl2_jax.convert.weight_names import in_their_order, pairs
from owl2_jax.core.tree import flatten
from owl2_jax.model.presets import preset
from tests.convert.checkpoints import GOLDEN, bits, copy, rewrite, tensors


@pytest.fixture(scope="module")
def manifest() -> dict:
    return json.loads((GOLDEN / "official_2_1_manifest.json").read_text())


def test_full_size_names_shapes_and_order_equal_the_original(manifest: dict) -> None:
    listed = in_their_order(pairs(OWL2_1, leaf_shapes(preset("owl2_1_7b"))))
    names = {pair.theirs: list(pair.their_shape) for pair in listed}
    assert list(names.items()) == list(manifest["parameters"].items())
    buffers = {name: list(spec.shape) for name, spec in buffer_shapes(preset("owl2_1_7b")).items()}
    assert buffers == manifest["buffers"]


def test_the_three_parts_of_a_projection_fill_it_without_overlap() -> None:
    shapes = leaf_shapes(preset("owl2_1_7b"))
    listed = [
        pair for pair in pairs(OWL2_1, shapes) if pair.theirs == "transformer.h.3.attn.c_attn.multiway.1.bias"
    ]
    assert [pair.rule.ours.split("/")[-2] for pair in listed] == ["q_image", "k_image", "v_image"]
    assert [(pair.rows.start, pair.rows.stop) for pair in listed] == [(0, 4096), (4096, 8192), (8192, 12288)]


def test_a_plain_qwen_is_read_for_both_modalities_and_a_plain_decoder_has_one() -> None:
    both = {rule.ours: rule.theirs for rule in QWEN}
    for name, image in (("q", "q_image"), ("k_text", "k_image"), ("v_text", "v_image")):
        place = "decoder/layers/attention"
        assert both[f"{place}/{name}/kernel"] == both[f"{place}/{image}/kernel"]
        assert both[f"{place}/{name}/kernel"] == "transformer.h.{i}.attn.c_attn.weight"
    config = preset("owl2_1_tiny").replace(**{"decoder.adaptive": "none"})
    assert {rule.ours for rule in OWL2_1_PLAIN} == leaf_shapes(config).keys()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_fused_projection_is_read_in_parts_from_either_kind_of_file(name: str, tmp_path: Path) -> None:
    directory = copy("F/hf", tmp_path / "hf")
    values = {key: value.to(torch.bfloat16) for key, value in tensors(directory).items()}
    # Stored the other way round, as a transposed weight of PyTorch is.
    fused = "transformer.h.1.attn.c_attn.multiway.1.weight"
    values[fused] = values[fused].T.contiguous().T
    rewrite(directory, values, name)
    params = flatten(load_hf_params(directory, dtype="bfloat16")[1])
    queries, keys, _ = values[fused].split(64)
    for part, ours in ((queries, "q_image"), (keys, "k_image")):
        stored = params[f"decoder/layers/attention/{ours}/kernel"][1]
        assert bits(np.ascontiguousarray(stored.reshape(64, 64).T)) == bits(part.contiguous())
