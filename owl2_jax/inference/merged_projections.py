"""Queries and text's keys and values of the decoder as one product, which reads its weights in less time.

Heads that belong together stand together, so that each device of a tensor axis has whole ones:

    q [D, N, H], k and v [D, K, H]    to    [D, K, N / K + 2, H]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from owl2_jax.core import axes
from owl2_jax.core.tree import Params, Tree
from owl2_jax.model.layers import KERNEL_SCALE
from owl2_jax.model.modality_projections import MERGED, TEXT_PROJECTIONS


def can_merge(attention: Tree) -> bool:
    """Whether a layer's projections, or stacked layers', hold nothing of their own, as adapters do."""
    parts = [attention[name] for name in TEXT_PROJECTIONS]
    return not any(set(part) - {"kernel", "bias", KERNEL_SCALE} for part in parts)


def merge(attention: Tree, join: Callable[[str, Any, Any, Any], Any] | None = None) -> Params:
    """Arrays of attention, of a layer or of stacked ones, with one entry in place of three.

    Args:
      join: (name of the leaf, that of q, of k, of v) to the merged one, in place of `joined`.
    """
    if not can_merge(attention):
        return dict(attention)
    q, k, v = (attention[name] for name in TEXT_PROJECTIONS)
    join = join or (lambda _, *parts: joined(*parts))
    rest = {name: part for name, part in attention.items() if name not in TEXT_PROJECTIONS}
    return {**rest, MERGED: {name: join(name, q[name], k[name], v[name]) for name in q}}


def joined(q: Any, k: Any, v: Any) -> Any:
    """[..., N, H], and twice [..., K, H], to [..., K, N / K + 2, H]."""
    *leading, heads, width = k.shape
    return jnp.concatenate([part.reshape(*leading, heads, -1, width) for part in (q, k, v)], axis=-2)


def joined_names(_: str, q: Sequence[str | None], k: Sequence[str | None], v: Any) -> tuple[str | None, ...]:
    """As `joined`, of logical axis names."""
    return (*k[:-1], axes.QKV, k[-1])


def with_merged(params: Tree, join: Callable[[str, Any, Any, Any], Any] | None = None) -> Params:
    """A model's tree, with the projections of its stacked layers merged as `merge` does."""
    decoder = params["decoder"]
    layers = {**decoder["layers"], "attention": merge(decoder["layers"]["attention"], join)}
    return {**params, "decoder": {**decoder, "layers": layers}}
