from __future__ import annotations

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from owl2_jax.checkpoint.local_config import LocalConfig
from owl2_jax.checkpoint.local_tier import LocalTier
from owl2_jax.core.errors import Owl2Error


@pytest.fixture
def state():
    """Arrays that are cut over two axes, over one, and over none."""
    mesh = Mesh(np.asarray(jax.devices()).reshape(4, 2), ("a", "b"))

    def placed(values, *axes):
        return jax.device_put(values, NamedSharding(mesh, PartitionSpec(*axes)))

    return {
        "kernel": placed(jnp.arange(32.0).reshape(4, 8), "b", "a"),
        "half": placed(jnp.arange(8, dtype=jnp.bfloat16), "b"),
        "step": placed(jnp.int32(3)),
    }


def like(state):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)


@pytest.fixture
def tier(tmp_path):
    made = LocalTier(LocalConfig(str(tmp_path), keep=2), "run")
    yield made
    made.close()


def test_a_state_comes_back_bit_for_bit_where_it_was(tier, state):
    tier.save(3, state, {"data": {"x": 1}})
    tier.wait()
    assert tier.steps() == {3}
    found, rest = tier.read(3, like(state))
    assert rest == {"data": {"x": 1}}
    for name, values in state.items():
        assert found[name].dtype == values.dtype
        assert found[name].sharding == values.sharding
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(values))


def test_a_part_that_many_devices_hold_is_written_once(tier, state, tmp_path):
    tier.save(3, state, {})
    tier.wait()
    (file,) = tmp_path.glob("run/0-of-1/3/arrays.bin")
    assert file.stat().st_size == sum(leaf.nbytes for leaf in state.values())


def test_the_newest_steps_are_kept_and_a_save_that_was_cut_off_is_none(tier, state, tmp_path):
    for step in (1, 2, 3):
        tier.save(step, state, {})
    tier.wait()
    assert tier.steps() == {2, 3}
    (tmp_path / "run/0-of-1/.4.tmp").mkdir()
    assert tier.steps() == {2, 3}
    assert LocalTier(LocalConfig(str(tmp_path)), "another").steps() == set()


def test_parts_are_found_whichever_process_wrote_them(tier, state, tmp_path):
    tier.save(3, state, {})
    tier.wait()
    (tmp_path / "run/0-of-1").rename(tmp_path / "run/5-of-8")
    found, _ = tier.read(3, like(state))
    np.testing.assert_array_equal(np.asarray(found["kernel"]), np.asarray(state["kernel"]))


def test_what_this_disk_does_not_have_is_told(tier, state, tmp_path):
    tier.save(3, state, {})
    tier.wait()
    other = {
        **like(state),
        "kernel": jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=state["kernel"].sharding),
    }
    with pytest.raises(Owl2Error, match=r"this host's disk lacks a part of \['kernel'\]"):
        tier.read(3, other)
    file = tmp_path / "run/0-of-1/3/arrays.bin"
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(Owl2Error, match=r"arrays.bin is cut off"):
        tier.read(3, like(state))


def test_a_save_that_failed_is_told_by_the_next(tier, state, tmp_path):
    tier.save(3, state, {})
    tier.wait()
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").write_text("in the way")
    tier.save(4, state, {})
    with pytest.raises(Owl2Error, match=r"train.local_checkpoints: .* cannot be made"):
        tier.save(5, state, {})


def test_a_folder_that_cannot_be_made_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Owl2Error, match=r"train.local_checkpoints.folder .* is a file"):
        LocalTier(LocalConfig(str(tmp_path / "file" / "x")), "run")
