"""Host batches onto the mesh, cut into the parts of gradient accumulation."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from owl2_jax.data.batch import Batch
from owl2_jax.parallel import placement
from owl2_jax.training.step import DeviceBatch


def device_batch(
    batch: Batch,
    mesh: jax.sharding.Mesh,
    parts: int = 1,
    datasets: bool = False,
    images_beside: bool = False,
) -> DeviceBatch:
    """Puts a host's rows onto the mesh.

    Args:
      batch: this host's rows.
      parts: A of gradient accumulation; with more than one, arrays become [A, B / A, ...].
      datasets: also place `dataset_ids`.
      images_beside: the step expects the images of a device's rows on that device.

    Raises:
      Owl2Error: an image that would lie on another device than its row.
    """
    names = [name for name in DeviceBatch.__dataclass_fields__ if datasets or name != "dataset_ids"]
    arrays = {name: getattr(batch, name) for name in names}
    if parts > 1:
        arrays = split(arrays, parts)
    if jax.process_count() > 1:
        images = arrays["images"].shape[1 if parts > 1 else 0]
        arrays["image_index"] = placement.global_image_index(arrays["image_index"], images, mesh)
    if images_beside:
        placement.check_images_beside(arrays["image_index"], arrays["images"].shape[-4], mesh)
    return DeviceBatch(**placement.place(arrays, mesh, accumulated=parts > 1))


def split(arrays: dict[str, np.ndarray], parts: int) -> dict[str, Any]:
    """[B, ...] to [A, B / A, ...] and [M, ...] to [A, M / A, ...].

    A row's images lie in the part of the images that belongs to its part
    of the rows (see `owl2_jax.data.batch.Batch`), so indices become local by
    subtracting where the part starts.
    """
    cut = {name: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]) for name, x in arrays.items()}
    first = np.arange(parts, dtype=np.int32)[:, None, None] * cut["images"].shape[1]
    index = cut["image_index"]
    return cut | {"image_index": np.where(index < 0, -1, index - first)}
