"""Host arrays to global arrays: which rows a process reads, and how its rows become one batch.

The batch axes of a mesh cut a batch into pieces. A process holds some of the
pieces, often but not always neighbours (a torus is walked in odd orders), and
processes along a tensor axis hold the same ones.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import PyTree
from owl2_jax.parallel.shardings import batch_sharding, batch_ways


def pieces_by_process(mesh: Mesh) -> dict[int, tuple[int, ...]]:
    """{process: numbers of the batch pieces that its devices hold}."""
    pieces: dict[int, list[int]] = {}
    for piece, devices in enumerate(mesh.devices.reshape(batch_ways(mesh), -1)):
        for process in sorted({device.process_index for device in devices}):
            pieces.setdefault(process, []).append(piece)
    return {process: tuple(held) for process, held in pieces.items()}


def data_shard(mesh: Mesh, process: int | None = None) -> tuple[int, int]:
    """Which part of every global batch a process reads: (index, count).

    Processes that hold the same pieces get the same index and must read the
    same data. All parts have the same number of rows.

    Args:
      mesh: the mesh over all processes.
      process: its number; this process by default.

    Raises:
      Owl2Error: processes whose pieces overlap only in part.
    """
    held = pieces_by_process(mesh)
    shards = sorted(set(held.values()))
    if len({piece for shard in shards for piece in shard}) != sum(map(len, shards)):
        raise Owl2Error(
            f"mesh {dict(mesh.shape)}: processes share some batch rows but not all ({shards}); choose a "
            "tensor axis that divides the devices of a process, or is a multiple of them"
        )
    return shards.index(held[jax.process_index() if process is None else process]), len(shards)


def reads_first(mesh: Mesh, process: int | None = None) -> bool:
    """Whether no process before this one reads the same part of the data.

    Of the processes along a tensor axis, which read the same, one alone is to
    write down what it met. `process`: its number; this process by default.
    """
    held = pieces_by_process(mesh)
    own = jax.process_index() if process is None else process
    return own == min(other for other, pieces in held.items() if pieces == held[own])


def place(batch: PyTree, mesh: Mesh, accumulated: bool = False) -> PyTree:
    """This process's rows to global device arrays.

    Args:
      batch: pytree of host arrays with this process's rows (or images)
        along the batch dimension; every process has equally many.
      accumulated: arrays are [A, B, ...] instead of [B, ...].

    Returns:
      The pytree of arrays sharded by `batch_sharding`.
    """
    sharding = batch_sharding(mesh, accumulated)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    held = pieces_by_process(mesh)[jax.process_index()]
    axis = int(accumulated)

    def assemble(leaf: np.ndarray) -> jax.Array:
        local = np.asarray(leaf)
        rows = local.shape[axis] // len(held)
        shape = list(local.shape)
        shape[axis] = rows * batch_ways(mesh)

        def piece(index: tuple[slice, ...]) -> np.ndarray:
            position = held.index((index[axis].start or 0) // rows) if rows else 0
            return local.take(range(position * rows, (position + 1) * rows), axis)

        return jax.make_array_from_callback(tuple(shape), sharding, piece)

    return jax.tree.map(assemble, batch)


def check_images_beside(image_index: np.ndarray, images: int, mesh: Mesh) -> None:
    """Checks that the images of every row lie in the piece of the batch that the row is in.

    Args:
      image_index: int32[..., B, I] of this process's rows, numbered over all processes; -1 for an
        empty place.
      images: number of images M of this process.

    Raises:
      Owl2Error: another piece's image, with its place.
    """
    held = np.asarray(pieces_by_process(mesh)[jax.process_index()])
    rows = image_index.shape[-2]
    own = held[np.arange(rows) * len(held) // rows][:, None]
    there = image_index // max(images // len(held), 1)
    wrong = np.argwhere((image_index >= 0) & (there != own))
    if len(wrong):
        place = tuple(wrong[0])
        raise Owl2Error(
            f"row {place[-2]} of a batch has image {image_index[place]}, which lies in piece {there[place]} "
            f"of the batch and not in piece {own[place[-2]][0]} with its row; only where data.shards divide "
            f"over the {batch_ways(mesh)} pieces are they together"
        )


def global_image_index(image_index: np.ndarray, images: int, mesh: Mesh) -> np.ndarray:
    """Numbers images over all processes.

    A process numbers its own images from 0; this gives each the place where
    `place` puts it among the images of the whole batch.

    Args:
      image_index: int32[..., B, I], -1 for an empty place.
      images: number of images M of each process.

    Returns:
      int32 of the same shape; empty places stay -1.
    """
    held = np.asarray(pieces_by_process(mesh)[jax.process_index()])
    per_piece = max(images // len(held), 1)
    local = np.maximum(image_index, 0)
    placed = held[np.minimum(local // per_piece, len(held) - 1)] * per_piece + local % per_piece
    return np.where(image_index < 0, -1, placed).astype(np.int32)
