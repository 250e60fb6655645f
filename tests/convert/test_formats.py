from __future__ import annotations

import pytest

from owl2_jax.convert.formats import format_of, rules_for, text_twin
from owl2_jax.convert.qwen_weight_names import OWL2_1, OWL2_1_PLAIN
from owl2_jax.convert.to_flax import leaf_shapes
from owl2_jax.convert.weight_names import OWL2
from owl2_jax.core.errors import Owl2Error
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.presets import preset


def changed(name: str, **changes: object) -> Owl2Config:
    return preset(name).replace(**{f"decoder.{field}": value for field, value in changes.items()})


def test_each_decoder_has_its_format() -> None:
    assert format_of(preset("owl2_7b")).rules == OWL2
    assert format_of(preset("owl2_1_7b")).rules == OWL2_1
    assert format_of(changed("owl2_1_7b", adaptive="none")).rules == OWL2_1_PLAIN
    assert format_of(changed("owl2_1_7b", adaptive="q")).rules == OWL2_1


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "owl2_7b",
            {"adaptive": "all"},
            "mplug_owl2 has no place for model.decoder.adaptive 'all'; expected full",
        ),
        ("owl2_7b", {"logn": True, "trained_length": 99}, "no place for model.decoder.logn True"),
        ("owl2_1_7b", {"adaptive": "norms+q"}, "mplug_owl2_1 has no place .* 'norms.q'; expected qkv"),
        ("owl2_1_7b", {"num_kv_heads": 8}, "num_kv_heads 8; expected 32"),
    ],
)
def test_what_no_format_can_say_is_refused(name: str, changes: dict, message: str) -> None:
    with pytest.raises(Owl2Error, match=message):
        format_of(changed(name, **changes))


def test_what_has_no_copy_for_images_is_written_from_the_one_for_text() -> None:
    config = changed("owl2_1_tiny", adaptive="q")
    shapes = leaf_shapes(config)
    rules = {(rule.theirs, rule.part, rule.op): rule.ours for rule in rules_for(config, shapes)}
    assert set(rules.values()) == shapes.keys()
    branch = [ours for (theirs, _, _), ours in rules.items() if theirs.endswith("multiway.1.weight")]
    assert [ours.split("/")[-2] for ours in branch] == ["q_image", "k_text", "v_text"]


def test_the_twin_of_an_image_leaf() -> None:
    assert text_twin("decoder/layers/attention/q_image/bias") == "decoder/layers/attention/q/bias"
    assert text_twin("decoder/layers/mlp_norm_image/scale") == "decoder/layers/mlp_norm_text/scale"
