from __future__ import annotations

import jax
import numpy as np
import pytest

from owl2_jax.convert import is_released_directory, load_hf
from owl2_jax.convert.to_flax import load_hf_params
from owl2_jax.core.tree import flatten
from tests.convert.checkpoints import GOLDEN


def test_released_directories_are_told_from_ours(tmp_path) -> None:
    assert is_released_directory(GOLDEN / "A/hf")
    assert not is_released_directory(tmp_path)
    for name in ("config.json", "model.json"):  # a run directory has both
        (tmp_path / name).write_text("{}")
    assert not is_released_directory(tmp_path)


def test_loaded_as_stored() -> None:
    loaded = load_hf(GOLDEN / "B/hf")
    config, params = load_hf_params(GOLDEN / "B/hf")
    assert loaded.config == config
    assert loaded.tokenizer is None
    assert loaded.model["tokenizer"] is None
    assert loaded.model["model"] == config.to_dict()
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


@pytest.mark.parametrize("as_tree", [True, False])
def test_leaves_go_to_the_mesh(as_tree: bool) -> None:
    sharding = jax.NamedSharding(jax.make_mesh((8,), ("data",)), jax.P())
    expected = load_hf_params(GOLDEN / "A/hf")[1]
    shardings = jax.tree.map(lambda _: sharding, expected) if as_tree else sharding
    loaded = load_hf(GOLDEN / "A/hf", dtype="bfloat16", shardings=shardings)
    assert loaded.config.param_dtype == loaded.config.dtype == "bfloat16"
    for name, leaf in flatten(loaded.params).items():
        assert (leaf.sharding, leaf.dtype.name) == (sharding, "bfloat16"), name
