"""How the decoder's matrices lie in a TPU's memory while they serve.

A step of few tokens multiplies few rows with whole matrices. Left alone, a TPU
lays them out for the least padding, and the compiler copies them whole at every
call into what its products want: the model's width D side by side for matrices
that make heads, and as they are written for the others.

    logical    [L, D, N, H]    [L, D, F]
    in memory  L, N, H, D      L, D, F

The projections of text stand in one array, so that one product reads them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import jax
from jax.experimental.layout import Format, Layout
from jax.sharding import NamedSharding, PartitionSpec

from owl2_jax.core import axes
from owl2_jax.core.tree import Params, Tree, flatten, unflatten
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.merged_projections import joined, joined_names, with_merged
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.owl2 import logical_axes

_PART: Final = "decoder/layers/"
_KERNEL: Final = "/kernel"


def served_order(name: str, names: Sequence[str | None]) -> tuple[int, ...] | None:
    """A leaf's axes from the outermost to the innermost, or None where a TPU may lay it out as it likes.

    Args:
      name: of the leaf, "decoder/layers/mlp/gate/kernel".
      names: one logical axis name per dimension.
    """
    if not (name.startswith(_PART) and name.endswith(_KERNEL)) or names[-1] == axes.EMBED:
        return None
    order = list(range(len(names)))
    if axes.HEAD_DIM in names:
        order.append(order.pop(list(names).index(axes.EMBED)))
    return tuple(order)


def served_formats(shardings: Tree, names: Tree) -> Tree:
    """The tree of shardings with a `Format` for each leaf that has an order; `names` may lack leaves."""
    known = flatten(names)
    places = {}
    for name, sharding in flatten(shardings).items():
        order = served_order(name, known[name]) if name in known else None
        places[name] = sharding if order is None else Format(Layout(major_to_minor=order), sharding)
    return unflatten(places)


def served_names(config: Owl2Config) -> Params:
    """Logical axis names of the parameters as they serve: with merged projections."""
    return with_merged(logical_axes(config), joined_names)


def lay_out(model: LoadedModel) -> LoadedModel:
    """The same model as its matrices serve; arrays that lie otherwise are given up, one after the other."""
    merged = with_merged(model.params, _join)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, merged)
    places = flatten(served_formats(shardings, served_names(model.config)))
    params = {name: _put(leaf, places[name]) for name, leaf in flatten(merged).items()}
    return replace(model, params=unflatten(params))


def _join(name: str, *parts: jax.Array) -> jax.Array:
    """One array of three, which are given up: for a moment both are there, when no page is yet."""
    place = parts[1].sharding
    if isinstance(place, NamedSharding):
        *leading, width = [*place.spec, *[None] * (parts[1].ndim - len(place.spec))]
        place = NamedSharding(place.mesh, PartitionSpec(*leading, None, width))
    order = None
    if name == _KERNEL[1:]:
        order = served_order(
            f"{_PART}{_KERNEL}", (axes.LAYERS, axes.EMBED, axes.KV_HEADS, axes.QKV, axes.HEAD_DIM)
        )
    merged = jax.jit(joined, out_shardings=place if order is None else Format(Layout(order), place))(*parts)
    for part in parts:
        part.delete()
    return merged


def _put(leaf: jax.Array, place: jax.sharding.Sharding | Format) -> jax.Array:
    if not isinstance(place, Format) or leaf.format.layout.major_to_minor == place.layout.major_to_minor:
        return leaf
    return jax.device_put(leaf, place, donate=True)
