"""Another image size, number of queries or modality-adaptive module for a trained model.

The patch rows of the position table are resized as an image (bicubic); the
class row stays. Queries keep their index, as each was trained together with
the fixed position code of its index: fewer queries are the first ones, more
are the old ones followed by copies of them in order, which the position codes
of the new indices tell apart. A branch for images that the checkpoint lacks
starts as a copy of the text branch, as stage 1 starts from LLaMA-2; one that is
not wanted is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from owl2_jax.checkpoint.output_directory import refuse_existing
from owl2_jax.checkpoint.param_files import write_model_directory
from owl2_jax.convert.formats import text_twin
from owl2_jax.convert.opened import open_model
from owl2_jax.convert.to_flax import leaf_shapes
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import unflatten
from owl2_jax.model.config import Owl2Config

_SHARPNESS: Final = -0.75  # the parameter of the cubic kernel that PyTorch uses


def resize_checkpoint(
    checkpoint: str | Path,
    output: str | Path,
    *,
    image_size: int | None = None,
    num_queries: int | None = None,
    adaptive: str | None = None,
) -> Owl2Config:
    """Writes the model directory `output`: `checkpoint` with another image size, query count or module.

    Args:
      checkpoint: model, run or released directory.
      output: must not exist yet.
      image_size: pixels, a multiple of the patch size; None keeps it.
      num_queries: None keeps it.
      adaptive: what has a copy per modality, see `DecoderConfig`; None keeps it.

    Returns:
      The new configuration.

    Raises:
      Owl2Error: a size that does not fit, nothing that changes, a damaged
        checkpoint, or an output that exists or does not fit on the disk.
    """
    refuse_existing(output)
    old = open_model(checkpoint)
    new = resized_config(old.config, image_size, num_queries, adaptive)
    if new == old.config:
        raise Owl2Error(
            f"nothing to resize: {checkpoint} has {new.vision.image_size} pixels, "
            f"{new.abstractor.num_queries} queries and the module {new.decoder.adaptive!r} already; "
            "give another image size, number of queries or module, or use it as it is"
        )
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "vision/position_embedding": partial(resize_position_table, grid_size=new.vision.grid_size),
        "abstractor/queries": partial(resize_queries, count=new.abstractor.num_queries),
    }
    leaves: dict[str, Any] = {}
    for path in leaf_shapes(new):
        stored = path if path in old.leaves else text_twin(path)
        leaves[path] = changes[path](old.read(path)) if path in changes else old.leaves[stored]
    write_model_directory(output, {**old.model, "model": new.to_dict()}, unflatten(leaves), old.tokenizer)
    return new


def resized_config(
    config: Owl2Config, image_size: int | None, num_queries: int | None, adaptive: str | None = None
) -> Owl2Config:
    """`config` with what is given; raises `Owl2Error` when it does not fit."""
    if num_queries is not None and num_queries < 1:
        raise Owl2Error(f"num_queries {num_queries} should be at least 1")
    if image_size is not None and image_size < config.vision.patch_size:
        raise Owl2Error(
            f"image size {image_size} is smaller than a patch ({config.vision.patch_size} pixels)"
        )
    changes: dict[str, Any] = {}
    if image_size is not None:
        changes["vision.image_size"] = image_size
    if num_queries is not None:
        changes["abstractor.num_queries"] = num_queries
    if adaptive is not None:
        changes["decoder.adaptive"] = adaptive
    return config.replace(**changes)


def resize_position_table(table: np.ndarray, grid_size: int) -> np.ndarray:
    """Position table for another grid: [P + 1, E] to [grid_size**2 + 1, E] of the same dtype."""
    old = round((len(table) - 1) ** 0.5)
    if old == grid_size:
        return table
    patches = table[1:].astype(np.float32).reshape(old, old, -1)
    resized = bicubic_resize(patches, grid_size, grid_size).reshape(grid_size**2, -1)
    return np.concatenate([table[:1], resized.astype(table.dtype)])


def resize_queries(queries: np.ndarray, count: int) -> np.ndarray:
    """Learned queries for another count: [Q, E] to [count, E]; see the module's text for the method."""
    return queries[np.arange(count) % len(queries)]


def bicubic_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes as PyTorch's `interpolate(mode="bicubic", align_corners=False)` does, without antialiasing.

    Args:
      image: float32[H, W, E].
      height, width: of the result.

    Returns:
      float32[height, width, E].
    """
    rows = _weights(image.shape[0], height)
    columns = _weights(image.shape[1], width)
    return np.einsum("ha,wb,abe->hwe", rows, columns, image, optimize=True).astype(np.float32)


def _weights(old: int, new: int) -> np.ndarray:
    """Share of each old sample in each new one, float64[new, old]; samples beyond the edge repeat it."""
    centres = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(centres).astype(int)
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        index = np.clip(first + tap, 0, old - 1)
        np.add.at(weights, (np.arange(new), index), _cubic(np.abs(centres - first - tap)))
    return weights


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with parameter a, for distances below 2."""
    a, x = _SHARPNESS, distance
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, far)
