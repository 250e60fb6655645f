from types import SimpleNamespace

import jax
import numpy as np
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.parallel import placement, shardings
from owl2_jax.parallel.mesh import MESH_AXES, make_mesh


def fake_mesh(processes, shape):
    """A mesh whose device grid of `shape` belongs to the given processes, in order."""
    grid = np.empty(len(processes), object)
    grid[:] = [SimpleNamespace(process_index=process) for process in processes]
    return SimpleNamespace(devices=grid.reshape(shape), shape=dict(zip(MESH_AXES, shape, strict=True)))


def test_each_process_reads_its_own_part():
    mesh = fake_mesh([0, 0, 1, 1], (1, 1, 4, 1))
    assert [placement.data_shard(mesh, process) for process in (0, 1)] == [(0, 2), (1, 2)]


def test_processes_along_a_tensor_axis_read_the_same_part():
    mesh = fake_mesh([0, 1, 0, 1, 2, 3, 2, 3], (1, 1, 4, 2))
    assert [placement.data_shard(mesh, process)[0] for process in range(4)] == [0, 0, 1, 1]
    assert [placement.reads_first(mesh, process) for process in range(4)] == [True, False, True, False]


def test_parts_that_overlap_are_refused():
    with pytest.raises(Owl2Error, match="share some batch rows but not all"):
        placement.data_shard(fake_mesh([0, 0, 0, 1, 1, 1], (1, 1, 3, 2)), 0)


def test_one_process_places_the_whole_batch():
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    batch = {"tokens": np.arange(16).reshape(8, 2), "images": np.zeros((0, 2, 2, 3), np.uint8)}
    placed = placement.place(batch, mesh)
    np.testing.assert_array_equal(placed["tokens"], batch["tokens"])
    assert {shard.data.shape for shard in placed["tokens"].addressable_shards} == {(2, 2)}


def test_images_are_numbered_where_they_are_placed(monkeypatch):
    mesh = fake_mesh([0, 1, 0, 1], (1, 1, 4, 1))
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    # Process 1 holds pieces 1 and 3 of four; its images 0, 1 and 2, 3 stand at 2, 3 and 6, 7.
    local = np.array([[0, -1], [1, 2], [3, -1]])
    np.testing.assert_array_equal(placement.global_image_index(local, 4, mesh), [[2, -1], [3, 6], [7, -1]])


def test_an_image_on_another_device_than_its_row_is_refused():
    mesh = fake_mesh([0, 0, 0, 0], (1, 1, 4, 1))
    beside = np.array([[0], [1], [-1], [3]], np.int32)
    placement.check_images_beside(beside, 4, mesh)
    placement.check_images_beside(np.stack([beside, beside]), 4, mesh)  # parts of accumulation
    with pytest.raises(Owl2Error, match=r"row 2 .* has image 1, which lies in piece 1 .* not in piece 2"):
        placement.check_images_beside(np.array([[0], [1], [1], [3]], np.int32), 4, mesh)


def test_images_of_a_process_whose_pieces_are_apart_are_checked_by_their_global_numbers(monkeypatch):
    mesh = fake_mesh([0, 1, 0, 1], (1, 1, 4, 1))
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    # Its four images stand at 2, 3 in piece 1 and 6, 7 in piece 3.
    placement.check_images_beside(np.array([[2], [7]], np.int32), 4, mesh)
    with pytest.raises(Owl2Error, match="row 1 of a batch has image 3, which lies in piece 1"):
        placement.check_images_beside(np.array([[2], [3]], np.int32), 4, mesh)


def test_shards_that_divide_over_devices_and_parts_keep_images_beside_their_rows():
    mesh = fake_mesh([0, 0, 0, 0], (1, 1, 4, 1))
    assert [shardings.images_beside(shards, mesh, 2) for shards in (1, 4, 8, 12, 16)] == [
        False, False, True, False, True,
    ]  # fmt: skip
