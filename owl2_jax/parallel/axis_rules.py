"""The table of logical axes: where parameters are stored, where things are when computed with.

Two columns are all of ZeRO-3. Parameters and optimiser states lie in pieces
along `fsdp` (storage); a layer gathers its own weights just before it uses
them (compute), and its gradients go back in pieces. `tensor` splits a layer's
work itself, so both columns agree on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

import jax
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec

from owl2_jax.core import axes
from owl2_jax.core.errors import unknown_name
from owl2_jax.parallel.mesh import BATCH_AXES, FSDP, TENSOR

MeshAxes = str | tuple[str, ...] | None

# logical axis: (storage, compute)
TABLE: Final[dict[str, tuple[MeshAxes, MeshAxes]]] = {
    axes.LAYERS: (None, None),
    axes.EMBED: (FSDP, None),
    axes.VISION_EMBED: (FSDP, None),
    axes.VISION_HIDDEN: ((TENSOR, FSDP), TENSOR),
    axes.HEADS: (TENSOR, TENSOR),
    axes.KV_HEADS: (TENSOR, TENSOR),
    axes.HIDDEN: (TENSOR, TENSOR),
    axes.VOCAB: (TENSOR, TENSOR),
    axes.HEAD_DIM: (None, None),
    axes.QKV: (None, None),
    axes.POSITIONS: (None, None),
    axes.QUERIES: (None, None),
    axes.BATCH: (BATCH_AXES, BATCH_AXES),
    axes.TOKENS: ((*BATCH_AXES, TENSOR), (*BATCH_AXES, TENSOR)),
    axes.IMAGES: (BATCH_AXES, BATCH_AXES),
    axes.LENGTH: (None, None),
    axes.CACHE: (None, None),
    axes.ACT_EMBED: (None, None),
    axes.ACT_HEADS: (TENSOR, TENSOR),
    axes.ACT_HIDDEN: (TENSOR, TENSOR),
    axes.ACT_VOCAB: (TENSOR, TENSOR),
}

STORAGE: Final = {name: storage for name, (storage, _) in TABLE.items()}
COMPUTE: Final = {name: compute for name, (_, compute) in TABLE.items()}
# What the model sees: plain names in use, and the stored names of `axes.stored`.
_FLAX_RULES: Final = (
    *COMPUTE.items(),
    *zip(axes.stored(tuple(STORAGE)), STORAGE.values(), strict=True),
)


def storage_spec(names: Sequence[str | None]) -> PartitionSpec:
    """How a parameter (and what the optimiser keeps of it) lies in memory.

    Vectors stay whole along `fsdp`: they are a few megabytes in all, and
    gathering each of them would cost a round trip per layer.

    Raises `UnknownNameError` for a name that is not in the table.
    """
    is_vector = sum(name != axes.LAYERS for name in names) == 1
    return _spec(names, COMPUTE if is_vector else STORAGE)


def compute_spec(names: Sequence[str | None]) -> PartitionSpec:
    """Where an activation, or a parameter in use, is. Raises `UnknownNameError`."""
    return _spec(names, COMPUTE)


def _spec(names: Sequence[str | None], mapping: dict[str, MeshAxes]) -> PartitionSpec:
    """First come, first served: a mesh axis splits only the first dimension that asks for it."""
    parts: list[MeshAxes] = []
    taken: set[str] = set()
    for name in names:
        if name is not None and name not in mapping:
            raise unknown_name("logical axis", name, mapping)
        wanted = mapping[name] if name is not None else None
        asked = {wanted} if isinstance(wanted, str) else set(wanted or ())
        parts.append(None if asked & taken else wanted)
        taken |= asked
    return PartitionSpec(*parts)


@contextlib.contextmanager
def activate(mesh: Mesh) -> Iterator[None]:
    """Makes `nn.with_logical_constraint` mean something on `mesh`.

    Enter it around tracing, or decorate what is traced, which works for every
    later retrace too: `jax.jit(activate(mesh)(step), ...)`. On a mesh of one
    device nothing is constrained and nothing is added to the program.
    """
    if mesh.size == 1:
        yield
        return
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), nn.logical_axis_rules(_FLAX_RULES):
        yield
