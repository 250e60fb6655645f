"""Sizes that do not fit, wrong types and unknown names are refused by name."""

from __future__ import annotations

from typing import get_args

import pytest

from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.model.attention_kernels import KERNELS
from owl2_jax.model.config import (
    AbstractorConfig,
    Attention,
    DecoderConfig,
    Owl2Config,
    Remat,
    VisionConfig,
)
from owl2_jax.model.remat import POLICIES


def test_round_trip_through_a_dict() -> None:
    config = Owl2Config(decoder=DecoderConfig(num_kv_heads=8), dtype="bfloat16")
    assert Owl2Config.from_dict(config.to_dict()) == config


def test_defaults_are_the_released_sizes() -> None:
    config = Owl2Config()
    assert config.tokens_per_image == 65
    assert config.vision.num_patches == 1024
    assert (config.vision.head_dim, config.decoder.head_dim) == (64, 128)


def test_replace_reaches_inside() -> None:
    config = Owl2Config().replace(vision__image_size=224, remat="full")
    assert (config.vision.grid_size, config.remat) == (16, "full")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"vision": {"image_sise": 224}}, ["image_sise", "image_size"]),
        ({"vison": {}}, ["vison", "vision"]),
        ({"vision": {"image_size": 225}}, ["225", "patch_size", "14"]),
        ({"vision": {"width": 1000}}, ["1000", "16"]),
        ({"abstractor": {"num_heads": 48}}, ["1024", "48"]),
        ({"decoder": {"num_kv_heads": 5}}, ["32", "5"]),
        ({"decoder": {"adaptive": "some"}}, ["some", "full"]),
        ({"decoder": {"width": "wide"}}, ["decoder.width", "whole number", "wide"]),
        ({"dtype": "float16"}, ["float16", "bfloat16"]),
        ({"vision": 3}, ["vision", "3"]),
    ],
)
def test_what_does_not_fit_is_refused(values: dict, words: list[str]) -> None:
    with pytest.raises(Owl2Error) as caught:
        Owl2Config.from_dict(values)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_unknown_field_is_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError):
        Owl2Config.from_dict({"layers": 3})


def test_width_for_the_position_table_must_divide_by_four() -> None:
    with pytest.raises(Owl2Error, match="sin-cos"):
        Owl2Config(vision=VisionConfig(width=6, num_heads=1), abstractor=AbstractorConfig(num_heads=1))


def test_names_of_a_config_are_those_of_policies_and_kernels() -> None:
    assert get_args(Remat) == tuple(POLICIES)
    assert set(get_args(Attention)) == {"auto", *KERNELS}
