from __future__ import annotations

import json

import pytest

from owl2_jax.convert.buffers import buffer_shapes
from owl2_jax.convert.formats import format_of
from owl2_jax.convert.hf_config import read_hf_config
from owl2_jax.convert.hf_config_writer import write_hf_config
from owl2_jax.convert.to_flax import leaf_shapes
from owl2_jax.convert.weight_names import CLIP, LLAMA, OWL2, in_their_order, pairs
from owl2_jax.model.presets import PRESETS, preset
from tests.convert.checkpoints import GOLDEN


@pytest.fixture(scope="module")
def manifest() -> dict:
    return json.loads((GOLDEN / "official_7b_manifest.json").read_text())


@pytest.fixture(scope="module")
def full_size_pairs() -> list:
    return in_their_order(pairs(OWL2, leaf_shapes(preset("owl2_7b"))))


def test_full_size_names_shapes_and_order_equal_the_original(manifest: dict, full_size_pairs: list) -> None:
    expected = [(t["name"], tuple(t["shape"])) for t in manifest["tensors"] if t["kind"] == "parameter"]
    assert [(pair.theirs, pair.their_shape) for pair in full_size_pairs] == expected
    assert len(expected) == 850


def test_full_size_buffers_equal_the_original(manifest: dict) -> None:
    expected = {t["name"]: tuple(t["shape"]) for t in manifest["tensors"] if t["kind"] == "buffer"}
    assert {n: s.shape for n, s in buffer_shapes(preset("owl2_7b")).items()} == expected
    assert len(expected) == 44


def test_full_size_shapes_come_back_to_ours(full_size_pairs: list) -> None:
    """Their names alone, through the table, give every leaf of ours once, with its layers."""
    shapes = leaf_shapes(preset("owl2_7b"))
    layers: dict[str, list] = {}
    for pair in full_size_pairs:
        layers.setdefault(pair.rule.ours, []).append(pair)
    assert layers.keys() == shapes.keys()
    for path, listed in layers.items():
        stack = () if listed[0].layer is None else (len(listed),)
        assert stack + listed[0].shape == shapes[path]
        assert [pair.layer for pair in listed] == (list(range(len(listed))) if stack else [None])


def test_full_size_configuration_is_the_preset() -> None:
    values = json.loads((GOLDEN / "official_7b_config.json").read_text())
    config = read_hf_config(values)
    released = preset("owl2_7b")
    # The config class's default; LLaMA-2 checkpoints say 1e-5.
    assert config.decoder.norm_eps == 1e-6
    same = released.replace(**{"decoder.norm_eps": 1e-6})
    assert (config.vision, config.abstractor, config.decoder) == (same.vision, same.abstractor, same.decoder)
    written = write_hf_config(config, "float32")
    ignored = {"architectures", "torch_dtype"}  # null in a file that stands beside no weights
    assert {k: v for k, v in written.items() if k not in ignored}.items() <= values.items()


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_covers_every_leaf_of_every_preset_once(name: str) -> None:
    shapes, rules = leaf_shapes(preset(name)), format_of(preset(name)).rules
    assert {rule.ours for rule in rules} == shapes.keys()
    assert len({rule.ours for rule in rules}) == len(rules)
    assert len({(rule.theirs, rule.part) for rule in rules}) == len(rules)


def test_llama_and_clip_together_cover_all_but_the_abstractor() -> None:
    shapes = leaf_shapes(preset("owl2_tiny"))
    ours = {rule.ours for rule in (*LLAMA, *CLIP)}
    assert ours == {path for path in shapes if not path.startswith("abstractor/")}


def test_a_stacked_rule_is_a_stacked_leaf() -> None:
    for rule in (*OWL2, *LLAMA, *CLIP):
        assert rule.stacked == ("/layers/" in rule.ours), rule
