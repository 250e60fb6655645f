from __future__ import annotations

import json
from pathlib import Path

import pytest

from owl2_jax.convert.hf_config import read_hf_config
from owl2_jax.convert.hf_config_writer import write_hf_config
from owl2_jax.core.errors import Owl2Error
from tests.convert.checkpoints import GOLDEN, LAYOUTS, copy, edit_config


def config_of(layout: str) -> dict:
    return json.loads((GOLDEN / layout / "config.json").read_text())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_we_write_equals_the_originals_file(layout: str) -> None:
    values = config_of(layout)
    assert write_hf_config(read_hf_config(values), "float32") == values


def test_sizes_land_where_they_belong() -> None:
    config = read_hf_config(config_of("B/hf"))
    assert (config.decoder.num_heads, config.decoder.num_kv_heads, config.decoder.norm_eps) == (4, 2, 1e-5)
    assert (config.vision.image_size, config.abstractor.num_queries, config.tokens_per_image) == (56, 8, 9)
    assert config.decoder.adaptive == "full"


def test_kv_heads_left_out_means_as_many_as_heads(tmp_path: Path) -> None:
    values = config_of("A/hf")
    del values["num_key_value_heads"]
    assert read_hf_config(values).decoder.num_kv_heads == 4


REFUSED = [
    ({"model_type": "llama"}, r"model_type is 'llama', expected 'mplug_owl2'.*owl2 convert init"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu' is supported"),
    (
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        r"^config\.json rope_scaling: type is 'linear'; only 'default' is supported",
    ),
    ({"attention_bias": True}, "attention_bias is True"),
    ({"vocab_size": None}, "vocab_size should be a positive whole number, found None"),
    ({"num_hidden_layers": 2.5}, "num_hidden_layers should be a positive whole number"),
    ({"num_attention_heads": 5}, "must be a multiple of"),
    ({"num_key_value_heads": 3}, "must be a multiple of"),
    ({"visual_config": None}, "visual_config is missing"),
    ({"visual_config__visual_model": None}, "visual_model is missing"),
    ({"visual_config__visual_model__image_size": 30}, "image_size 30 must be a multiple of .* 14"),
    ({"visual_config__visual_model__image_size": 42}, "grid_size is 2, but .* is 3; make them equal"),
    ({"visual_config__visual_model__hidden_act": "gelu"}, "visual_model: hidden_act is 'gelu'"),
    ({"visual_config__visual_model__use_post_layernorm": False}, "use_post_layernorm is False"),
    ({"visual_config__visual_abstractor__hidden_size": 64}, "hidden_size is 64, but .* is 32"),
    ({"visual_config__visual_abstractor__add_v2t_pos_emb": True}, "add_v2t_pos_emb is True"),
    ({"visual_config__visual_abstractor__num_learnable_queries": 0}, "num_learnable_queries should be"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_our_model_cannot_compute_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    directory = copy("A/hf", tmp_path / "hf")
    edit_config(directory, **changes)
    with pytest.raises(Owl2Error, match=message):
        read_hf_config(json.loads((directory / "config.json").read_text()))
