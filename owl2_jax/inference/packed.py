"""Many small arrays as one, so that a step hands the device one buffer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# For every array its shape and dtype; with the tree's structure, the static side of a pack.
Layout = tuple[Any, tuple[tuple[tuple[int, ...], str], ...]]


def pack(tree: Any) -> tuple[np.ndarray, Layout]:
    """A tree of numpy arrays of 32 bits, and of bools, as uint32[n]."""
    leaves, structure = jax.tree.flatten(tree)
    words = [
        leaf.astype(np.uint32).ravel() if leaf.dtype.kind == "b" else leaf.ravel().view(np.uint32)
        for leaf in leaves
    ]
    return np.concatenate(words), (structure, tuple((leaf.shape, leaf.dtype.str) for leaf in leaves))


def unpack(buffer: jax.Array, layout: Layout) -> Any:
    """The tree again, inside of a compiled function."""
    structure, described = layout
    leaves, start = [], 0
    for shape, name in described:
        dtype, size = np.dtype(name), int(np.prod(shape))
        part = buffer[start : start + size].reshape(shape)
        leaves.append(part != 0 if dtype.kind == "b" else lax.bitcast_convert_type(part, jnp.dtype(dtype)))
        start += size
    return jax.tree.unflatten(structure, leaves)
