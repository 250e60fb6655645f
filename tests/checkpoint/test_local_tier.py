from __future__ import annotations

import errno
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from owl2_jax.checkpoint import local_tier
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
    made = LocalTier(LocalConfig(str(tmp_path)), "run", 1)
    yield made
    made.close()


def started(tmp_path, attempt, **settings):
    """The tier of another start of the same run."""
    return LocalTier(LocalConfig(str(tmp_path), **settings), "run", attempt)


def save(tier, step, state):
    tier.save(step, state, {})
    tier.wait()


def full_disk(monkeypatch):
    """From now on there is room for one piece."""

    def write_and_fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local_tier.os, "fsync", write_and_fail)


def test_a_state_comes_back_bit_for_bit_where_it_was(tier, state):
    tier.save(3, state, {"data": {"x": 1}})
    tier.wait()
    assert tier.saves() == {(3, 1)}
    found, rest = tier.read(3, 1, like(state))
    assert rest == {"data": {"x": 1}}
    for name, values in state.items():
        assert found[name].dtype == values.dtype
        assert found[name].sharding == values.sharding
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(values))


def test_a_part_that_many_devices_hold_is_written_once(tier, state, tmp_path):
    tier.save(3, state, {})
    tier.wait()
    (file,) = tmp_path.glob("run/1/0-of-1/3/arrays.bin")
    assert file.stat().st_size == sum(leaf.nbytes for leaf in state.values())


def test_the_newest_steps_are_kept_and_a_save_that_was_cut_off_is_none(tier, state, tmp_path):
    for step in (1, 2, 3):
        tier.save(step, state, {})
    tier.wait()
    assert tier.saves() == {(2, 1), (3, 1)}
    (tmp_path / "run/1/0-of-1/.4.tmp").mkdir()
    assert tier.saves() == {(2, 1), (3, 1)}
    assert LocalTier(LocalConfig(str(tmp_path)), "another", 1).saves() == set()


def test_parts_are_found_whichever_process_wrote_them(tier, state, tmp_path):
    tier.save(3, state, {})
    tier.wait()
    (tmp_path / "run/1/0-of-1").rename(tmp_path / "run/1/5-of-8")
    found, _ = tier.read(3, 1, like(state))
    np.testing.assert_array_equal(np.asarray(found["kernel"]), np.asarray(state["kernel"]))


def test_what_this_disk_does_not_have_is_told(tier, state, tmp_path):
    tier.save(3, state, {})
    tier.wait()
    other = {
        **like(state),
        "kernel": jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=state["kernel"].sharding),
    }
    with pytest.raises(Owl2Error, match=r"this host's disk lacks a part of \['kernel'\]"):
        tier.read(3, 1, other)
    file = tmp_path / "run/1/0-of-1/3/arrays.bin"
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(Owl2Error, match=r"arrays.bin is cut off"):
        tier.read(3, 1, like(state))


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
        LocalTier(LocalConfig(str(tmp_path / "file" / "x")), "run", 1)


def test_a_save_that_fails_leaves_nothing_and_the_next_one_has_the_room(tier, state, tmp_path, monkeypatch):
    save(tier, 3, state)
    with monkeypatch.context() as patched:
        full_disk(patched)
        with pytest.raises(Owl2Error, match="no space left while writing"):
            save(tier, 4, state)
    assert [path.name for path in (tmp_path / "run/1/0-of-1").iterdir()] == ["3"]
    save(tier, 5, state)
    assert tier.saves() == {(3, 1), (5, 1)}


def test_what_a_killed_save_left_is_removed_before_the_next_is_written(tier, state, tmp_path, monkeypatch):
    save(tier, 3, state)
    (tmp_path / "run/1/0-of-1/.4.tmp").mkdir()
    (tmp_path / "run/2/0-of-1/.4.tmp").mkdir(parents=True)  # of a start that saved nothing whole
    sibling = tmp_path / "run/3/1-of-2/.4.tmp"  # of another process on this host, which may be writing
    sibling.mkdir(parents=True)
    full_disk(monkeypatch)
    later = started(tmp_path, 3)
    with pytest.raises(Owl2Error, match="no space left"):
        save(later, 4, state)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob(".*.tmp")] == ["run/3/1-of-2/.4.tmp"]
    assert not (tmp_path / "run/2").exists()
    assert later.saves() == {(3, 1)}


def test_fewer_than_two_steps_cannot_be_kept(tmp_path):
    assert LocalConfig(str(tmp_path)).keep == 2
    with pytest.raises(Owl2Error, match=r"train\.local_checkpoints\.keep must be at least 2, found 1"):
        LocalConfig(str(tmp_path), keep=1)


def test_the_step_that_hosts_have_in_common_outlives_a_save_that_only_some_finish(tier, state, tmp_path):
    """This host wrote step 4 and another one ended during it, twice."""
    for step in (3, 4):
        save(tier, step, state)
    later = started(tmp_path, 2)
    later.prefer({(3, 1)})
    save(later, 4, state)
    assert later.saves() == {(3, 1), (4, 2)}
    save(later, 5, state)
    assert later.saves() == {(4, 2), (5, 2)}


def test_parts_of_two_starts_are_never_mixed_and_those_of_another_numbering_go(tier, state, tmp_path):
    save(tier, 3, state)
    (tmp_path / "run/1/0-of-1").rename(tmp_path / "run/1/1-of-2")
    later = started(tmp_path, 2)
    doubled = jax.tree.map(lambda values: values * 2, state)
    save(later, 3, doubled)
    assert later.saves() == {(3, 1), (3, 2)}
    for attempt, wanted in ((1, state), (2, doubled)):
        found, _ = later.read(3, attempt, like(state))
        np.testing.assert_array_equal(np.asarray(found["kernel"]), np.asarray(wanted["kernel"]))
    save(later, 4, doubled)
    save(later, 5, doubled)
    assert later.saves() == {(4, 2), (5, 2)}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["2"]


def test_folders_without_an_attempt_are_removed(tier, state, tmp_path):
    (tmp_path / "run/0-of-1/3").mkdir(parents=True)
    assert tier.saves() == set()
    save(tier, 4, state)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["1"]
