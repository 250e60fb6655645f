from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from owl2_jax.convert.buffers import buffer_shapes, buffer_values, buffers, check_buffer
from owl2_jax.convert.hf_config import read_hf_config
from owl2_jax.convert.source import Source
from owl2_jax.core.errors import Owl2Error
from owl2_jax.model.layers import sincos_1d, sincos_2d
from owl2_jax.model.presets import preset
from tests.convert.checkpoints import GOLDEN


@pytest.mark.parametrize("layout", ["A/hf", "B/hf"])
def test_buffers_equal_the_originals_to_the_last_bit(layout: str) -> None:
    source = Source(GOLDEN / layout)
    config = read_hf_config(source.config())
    assert buffer_shapes(config).keys() <= source.specs.keys()
    for name, values in buffers(config):
        np.testing.assert_array_equal(source.read(name), values, err_msg=name)


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_frequencies_equal_pytorchs_at_full_size(theta: float) -> None:
    config = preset("owl2_7b").replace(**{"decoder.rope_theta": theta})
    expected = 1.0 / (theta ** (torch.arange(0, 128, 2).float() / 128))
    values = buffer_values(config)["model.layers.{i}.self_attn.rotary_emb.inv_freq"]
    np.testing.assert_array_equal(values, expected.numpy())


def test_the_models_own_tables_pass_the_check_at_full_size() -> None:
    queries, grid = sincos_1d(np.arange(64), 1024), sincos_2d(32, 1024)
    _, expected_queries, expected_grid = buffer_values(preset("owl2_7b")).values()
    check_buffer("q", queries, expected_queries, "here")
    check_buffer("k", grid, expected_grid, "here")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_rounded_buffers_pass_and_wrong_ones_do_not(dtype) -> None:
    expected = sincos_2d(4, 32)
    check_buffer("k", expected.astype(dtype), expected, "here")
    wrong = expected.copy()
    wrong[3, 5] += 0.02
    with pytest.raises(Owl2Error, match=r"here: buffer k differs by 0\.0.* from what config\.json gives"):
        check_buffer("k", wrong.astype(dtype), expected, "here")
    wrong[3, 5] = np.nan
    with pytest.raises(Owl2Error, match="differs by nan"):
        check_buffer("k", wrong.astype(dtype), expected, "here")
    with pytest.raises(Owl2Error, match="has dtype int64"):
        check_buffer("k", expected.astype(np.int64), expected, "here")
