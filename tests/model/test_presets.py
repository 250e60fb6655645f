"""Exact parameter counts of every preset; the full size is held against the released manifest."""

from __future__ import annotations

import json
import math

import jax
import pytest

from owl2_jax.core import tree
from owl2_jax.core.errors import UnknownNameError
from owl2_jax.model.owl2 import abstract_params, logical_axes
from owl2_jax.model.presets import PRESETS, preset

COUNTS = {
    "owl2_1_7b": 9_717_770_240, "owl2_1_tiny": 2_656_128, "owl2_7b": 8_197_859_328,
    "owl2_bench": 69_806_080, "owl2_tiny": 2_605_440,
}  # fmt: skip

# Parameters of the parts of the full model (released checkpoint).
PARTS_7B = {
    "vision/.*": 303_966_208,
    "abstractor/.*": 81_473_536,
    "decoder/embedding": 131_072_000,
    "decoder/layers/.*_image/.*": 1_074_003_968,
    "decoder/layers/.*": 6_476_267_520,
    "decoder/final_norm/.*": 4_096,
    "decoder/head/.*": 131_072_000,
}
# The same of mPLUG-Owl2.1.
PARTS_2_1 = {
    "vision/.*": 303_966_208,
    "abstractor/.*": 81_473_536,
    "decoder/embedding": 622_329_856,
    "decoder/layers/.*_image/.*": 1_611_005_952,
    "decoder/layers/.*": 8_087_666_688 - 1_611_005_952,
    "decoder/final_norm/.*": 4_096,
    "decoder/head/.*": 622_329_856,
}


def count(leaves: dict[str, jax.ShapeDtypeStruct]) -> int:
    return sum(math.prod(leaf.shape) for leaf in leaves.values())


def test_every_preset_has_its_count_pinned() -> None:
    assert sorted(COUNTS) == sorted(PRESETS)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_parameter_count(name: str) -> None:
    assert count(tree.flatten(abstract_params(preset(name)))) == COUNTS[name]


@pytest.mark.parametrize(("name", "expected"), [("owl2_7b", PARTS_7B), ("owl2_1_7b", PARTS_2_1)])
def test_parts_of_the_full_models_add_up(name: str, expected: dict[str, int]) -> None:
    leaves = tree.flatten(abstract_params(preset(name)))
    parts = tree.match_rules(leaves, [(pattern, pattern) for pattern in expected])
    found = {
        pattern: count({name: leaf for name, leaf in leaves.items() if parts[name] == pattern})
        for pattern in expected
    }
    assert found == expected


def test_the_released_manifest_has_as_many_parameters(golden_directory) -> None:
    manifest = json.loads((golden_directory / "official_7b_manifest.json").read_text())
    parameters = [tensor for tensor in manifest["tensors"] if tensor["kind"] == "parameter"]
    assert len(parameters) == 850
    assert sum(math.prod(tensor["shape"]) for tensor in parameters) == COUNTS["owl2_7b"]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_leaf_names_all_its_axes(name: str) -> None:
    shapes, names = (tree.flatten(t) for t in (abstract_params(preset(name)), logical_axes(preset(name))))
    assert shapes.keys() == names.keys()
    assert all(len(names[key]) == len(leaf.shape) for key, leaf in shapes.items())


def test_unknown_preset_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="owl2_7b"):
        preset("owl2_7B")
