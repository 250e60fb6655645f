"""Shardings of parameters, optimiser states, batches and caches on a mesh, checked beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from owl2_jax.core import axes
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import Params, PyTree, Tree, flatten, unflatten
from owl2_jax.parallel.axis_rules import compute_spec, storage_spec
from owl2_jax.parallel.mesh import BATCH_AXES, axis_size


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def param_specs(logical_axes: Tree) -> dict[str, PartitionSpec]:
    """{leaf name: storage spec} of a tree with tuples of logical names at its leaves."""
    return {name: storage_spec(names) for name, names in flatten(logical_axes).items()}


def param_shardings(logical_axes: Tree, mesh: Mesh) -> Params:
    """Storage shardings of the parameters: the tree of `logical_axes` with `NamedSharding` leaves."""
    return unflatten({name: NamedSharding(mesh, spec) for name, spec in param_specs(logical_axes).items()})


def check_params(logical_axes: Tree, params: Tree, mesh: Mesh) -> None:
    """Checks that every parameter can be cut as the table says.

    Args:
      logical_axes: tuples of logical names.
      params: arrays or `ShapeDtypeStruct` in the same tree.

    Raises:
      Owl2Error: a dimension that its mesh axes do not divide, with the
        arithmetic; parameters in use are checked like stored ones.
    """
    shapes = {name: tuple(leaf.shape) for name, leaf in flatten(params).items()}
    for name, names in flatten(logical_axes).items():
        for spec in (storage_spec(names), compute_spec(names)):
            _check_divides(name, shapes[name], names, spec, mesh)


def _check_divides(
    leaf: str, shape: Sequence[int], names: Sequence[str | None], spec: PartitionSpec, mesh: Mesh
) -> None:
    for size, name, mesh_axes in zip(shape, names, spec, strict=True):
        ways = axis_size(mesh, mesh_axes)
        if size % ways:
            raise Owl2Error(
                f"{leaf} {list(shape)}: axis {name} of {size} cannot be cut over mesh axis {mesh_axes} "
                f"of {ways}: {size} = {size // ways} * {ways} + {size % ways}; choose a size of "
                f"{mesh_axes} that divides {size}"
            )


def like_params(tree: PyTree, shardings: Tree, params: Tree, mesh: Mesh) -> PyTree:
    """Shardings of a whole training state, whatever its structure.

    A leaf whose path ends with a parameter's path and that has its shape (the
    parameter itself, Adam's moments, an average) lies like the parameter;
    everything else (counters, keys, statistics) is whole on every device.

    Args:
      tree: pytree of arrays or `ShapeDtypeStruct`, for example the abstract
        training state.
      shardings: from `param_shardings`.
      params: the parameters' arrays or shapes.

    Returns:
      The pytree with `NamedSharding` leaves.
    """
    known = {
        name: (tuple(leaf.shape), sharding)
        for (name, leaf), sharding in zip(flatten(params).items(), flatten(shardings).values(), strict=True)
    }

    def find(path: tuple[object, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        keys = [_key_text(key) for key in path]
        for start in range(len(keys)):
            shape, sharding = known.get("/".join(keys[start:]), (None, None))
            if shape == tuple(leaf.shape):
                return sharding
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(find, tree)


def _key_text(key: object) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def batch_sharding(mesh: Mesh, accumulated: bool = False) -> NamedSharding:
    """Cuts the leading dimension (rows B or images M) over all batch axes.

    One sharding serves as the prefix for every array of a batch. With
    `accumulated`, arrays are [A, B, ...] and the A micro-batches stay whole.
    """
    return NamedSharding(mesh, PartitionSpec(*([None] if accumulated else []), BATCH_AXES))


def cache_shardings(mesh: Mesh) -> dict[str, NamedSharding]:
    """Of the fields of a key/value cache: keys and values [L, B, K, S, H], lengths [B]."""
    cache = compute_spec((axes.LAYERS, axes.BATCH, axes.ACT_HEADS, axes.CACHE, None))
    return {
        "keys": NamedSharding(mesh, cache),
        "values": NamedSharding(mesh, cache),
        "lengths": NamedSharding(mesh, compute_spec((axes.BATCH,))),
    }


def page_sharding(mesh: Mesh, names: tuple[str | None, ...]) -> NamedSharding:
    """Of pages whose axes have these names, see `Pages.axes`: heads over the tensor axis."""
    return NamedSharding(mesh, compute_spec(names))


def images_beside(shards: int, mesh: Mesh, accumulation: int = 1) -> bool:
    """Whether every device has the images of its rows, see `owl2_jax.data.batch.Batch`.

    Args:
      shards: `data.shards`, the parts of a batch that share no image.
    """
    return shards % (batch_ways(mesh) * accumulation) == 0


def batch_ways(mesh: Mesh) -> int:
    """Number of pieces a batch is cut into."""
    return axis_size(mesh, BATCH_AXES)


def check_batch(count: int, mesh: Mesh, what: str = "batch rows", accumulation: int = 1) -> None:
    """Checks that `count` rows (or images) divide over the batch axes and accumulation steps.

    Raises:
      Owl2Error: with the arithmetic and the nearest counts that divide.
    """
    ways = batch_ways(mesh)
    whole = ways * accumulation
    if count % whole == 0:
        return
    product = " * ".join(f"{name} {mesh.shape[name]}" for name in BATCH_AXES)
    if accumulation > 1:
        product += f" * accumulation {accumulation}"
    below = count // whole * whole
    near = f"{below} or {below + whole}" if below else f"{whole}"
    raise Owl2Error(
        f"{count} {what} do not divide over {product} = {whole}: "
        f"{count} = {count // whole} * {whole} + {count % whole}; use {near}, or another mesh"
    )
