"""Kernels of attention over pages, chosen in one place; all agree with `paged_attention.written_out`."""

from __future__ import annotations

import functools
from typing import Final

import jax
from flax import linen as nn

from owl2_jax.core import axes
from owl2_jax.model import paged_attention
from owl2_jax.model.pages import COMBINED, HEADS, PagedBatch, Pages, to_lanes

Array = jax.Array

# Of the TPU's kernel. It would ask the local device for them otherwise, which may be none.
_KEYS_PER_BLOCK: Final = 128
_QUERIES_PER_BLOCK: Final = 32
_VMEM_BYTES: Final = 32 * 2**20


def layout(platform: str) -> str:
    """How pages lie for the kernel of a platform ("tpu", "gpu", "cpu")."""
    return COMBINED if platform == "tpu" else HEADS


def attend(q: Array, pages: Pages, batch: PagedBatch, layer: Array, num_layers: int) -> Array:
    """The kernel that fits the layout of the pages; see `paged_attention.written_out`."""
    kernel = paged_attention.written_out if pages.values is not None else ragged
    return kernel(q, pages, batch, layer, num_layers)


def ragged(q: Array, pages: Pages, batch: PagedBatch, layer: Array, num_layers: int) -> Array:
    """Pallas ragged paged attention for TPU: prompts and answers of any lengths in one call.

    On a mesh every device runs the kernel on its own heads.
    """
    tables = batch.block_tables + layer * (pages.keys.shape[0] // num_layers)
    arguments = (q, pages.keys, batch.lengths, tables, batch.starts, batch.count)
    if jax.sharding.get_abstract_mesh().empty:
        return _ragged_local(*arguments)
    heads = nn.logical_to_mesh_axes((None, axes.ACT_HEADS, None))
    combined = nn.logical_to_mesh_axes((None, None, axes.ACT_HEADS, None))
    whole = jax.sharding.PartitionSpec()
    return jax.shard_map(
        _ragged_local,
        in_specs=(heads, combined, whole, whole, whole, whole),
        out_specs=heads,
        check_vma=False,
    )(*arguments)


def _ragged_local(q: Array, keys: Array, lengths: Array, tables: Array, starts: Array, count: Array) -> Array:
    from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention

    size = keys.shape[1]
    run = functools.partial(
        ragged_paged_attention,
        sm_scale=q.shape[-1] ** -0.5,
        num_kv_pages_per_block=min(max(_KEYS_PER_BLOCK // size, 1), tables.shape[1]),
        num_queries_per_block=min(_QUERIES_PER_BLOCK, q.shape[0]),
        vmem_limit_bytes=_VMEM_BYTES,
    )
    return run(to_lanes(q), keys, lengths, tables, starts, count)[..., : q.shape[-1]]
