from __future__ import annotations

import gc
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from owl2_jax.checkpoint.array_reader import (
    ParamsReader,
    check_fit,
    drop_late_replies,
    restore_params,
    stored_arrays,
)
from owl2_jax.checkpoint.array_store import write_params
from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.core.tree import flatten
from tests.checkpoint.test_array_store import assert_equal_trees, example


@pytest.mark.parametrize("save", [ocp.args.StandardSave, ocp.args.PyTreeSave])
def test_reads_what_a_checkpoint_manager_wrote(tmp_path: Path, save) -> None:
    params = jax.tree.map(jnp.asarray, example())
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        manager.save(7, args=ocp.args.Composite(params=save(params), train=save({"step": jnp.ones(())})))
    assert_equal_trees(restore_params(tmp_path / "run" / "7" / "params"), example())


def test_leaves_go_to_the_mesh_in_the_asked_dtype(tmp_path: Path) -> None:
    write_params(tmp_path / "params", example())
    mesh = jax.make_mesh((8,), ("data",))
    split = jax.NamedSharding(mesh, jax.P("data"))
    abstract = {
        "block": {"layers": {"kernel": jax.ShapeDtypeStruct((4, 4, 3), jnp.bfloat16)}},
        "table": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=split),
    }
    restored = restore_params(tmp_path / "params", abstract)
    assert isinstance(restored["block"]["layers"]["kernel"], np.ndarray)
    assert restored["block"]["layers"]["kernel"].dtype == ml_dtypes.bfloat16
    assert restored["table"].sharding == split
    whole = jax.NamedSharding(mesh, jax.P())
    for shardings in (whole, {"block": {"layers": {"kernel": whole}}, "table": whole}):
        restored = restore_params(tmp_path / "params", abstract, shardings)
        assert {leaf.sharding for leaf in jax.tree.leaves(restored)} == {whole}
        np.testing.assert_array_equal(np.asarray(restored["table"]), example()["table"])


def test_one_leaf_is_read_by_name(tmp_path: Path) -> None:
    write_params(tmp_path / "params", example())
    reader = ParamsReader(tmp_path / "params")
    assert reader.shapes == {"block/layers/kernel": (4, 4, 3), "table": (8,)}
    np.testing.assert_array_equal(reader.read("table"), example()["table"])
    with pytest.raises(UnknownNameError, match="did you mean 'block/layers/kernel'"):
        reader.read("block/layers/kernels")


def test_a_leaf_comes_in_the_pieces_it_is_stored_in(tmp_path: Path) -> None:
    write_params(tmp_path / "ours", example())
    pieces = list(ParamsReader(tmp_path / "ours").blocks("block/layers/kernel"))
    assert [piece.shape for piece in pieces] == [(1, 4, 3)] * 4
    ocp.PyTreeCheckpointer().save(tmp_path / "orbax", jax.tree.map(jnp.asarray, example()))
    for directory in ("ours", "orbax"):
        reader = ParamsReader(tmp_path / directory)
        for name, values in flatten(example()).items():
            np.testing.assert_array_equal(np.concatenate(list(reader.blocks(name))), values)
            np.testing.assert_array_equal(reader.read(name), values)


def test_misfit_names_missing_extra_and_wrong_shapes_in_one_line(tmp_path: Path) -> None:
    stored = {"a/kernel": (2, 3), "b/bias": (4,), "c": (1,)}
    expected = {"a/kernels": (2, 3), "b/bias": (5,), "c": (1,)}
    with pytest.raises(Owl2Error) as error:
        check_fit(stored, expected, "DIR")
    message = str(error.value)
    assert "1 missing: a/kernels (nearest: a/kernel)" in message
    assert "1 not in the model: a/kernel" in message
    assert "b/bias is [4], expected [5]" in message
    assert "\n" not in message
    write_params(tmp_path / "params", example())
    with pytest.raises(Owl2Error, match="does not fit the model"):
        restore_params(tmp_path / "params", {"table": jax.ShapeDtypeStruct((8,), jnp.float32)})


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE = [
    ("_METADATA", Path.unlink, "half-written or damaged: _METADATA is missing"),
    ("_METADATA", truncate, "is damaged"),
    ("table/.zarray", Path.unlink, r"is damaged: .*table/\.zarray"),
    ("table/0", Path.unlink, "is damaged: .*table/0.* missing"),
    ("table/0", truncate, "is damaged: .*table/0"),
]


@pytest.mark.parametrize(("file", "damage", "message"), DAMAGE)
def test_damage_is_one_line_that_names_the_file(tmp_path: Path, file: str, damage, message: str) -> None:
    write_params(tmp_path / "params", example())
    damage(tmp_path / "params" / file)
    for read in (restore_params, lambda params: ParamsReader(params).read("table")):
        with pytest.raises(Owl2Error, match=message) as error:
            read(tmp_path / "params")
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 500


def test_stored_arrays_tells_shapes_without_reading_values(tmp_path: Path) -> None:
    write_params(tmp_path / "params", example(ml_dtypes.bfloat16))
    (tmp_path / "params" / "table" / "0").unlink()
    assert stored_arrays(tmp_path / "params")["table"] == ((8,), np.dtype(ml_dtypes.bfloat16))


# Every array fails a turn of the event loop after the one before. The first failure ends the loop,
# as Orbax does it: some have failed then and were not heard.
WRITES = """
import asyncio

async def write(turns):
    for _ in range(turns):
        await asyncio.sleep(0)
    raise ValueError(f"no room after {turns}")

async def write_array(turns):
    await asyncio.gather(write(turns))

async def write_all():
    await asyncio.gather(*map(write_array, range(9)))

def save():
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(write_all())
    except ValueError as error:
        return str(error)
    finally:
        loop.close()
"""


@pytest.mark.parametrize(("source", "shown"), [("orbax/checkpoint/save.py", False), ("others/save.py", True)])
def test_only_the_first_error_of_a_failed_save_is_shown(source: str, shown: bool, caplog) -> None:
    module: dict = {}
    exec(compile(WRITES, f"/site-packages/{source}", "exec"), module)
    drop_late_replies()
    with caplog.at_level(logging.ERROR):
        assert module["save"]() == "no room after 0"
        gc.collect()
    for message in ("_GatheringFuture exception was never retrieved", "Task exception was never retrieved"):
        assert (message in caplog.text) == shown
