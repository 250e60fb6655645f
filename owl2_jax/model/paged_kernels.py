"""Kernels of attention over pages, chosen in one place; all agree with `paged_attention.written_out`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
from flax import linen as nn

from owl2_jax.core import axes
from owl2_jax.model import paged_attention
from owl2_jax.model.pages import BY_HEAD, COMBINED, HEADS, PagedBatch, Pages, to_lanes

Array = jax.Array

# Of the GPU's kernel: of a row, keys that a block reads at a time, and most blocks side by side.
_KEYS_AT_A_TIME: Final = 128
_MOST_SPLITS: Final = 16
_LEAST_WIDTH: Final = 16  # of a head; tensor cores take no less
# Of the TPU's kernel. It would ask the local device for them otherwise, which may be none.
_KEYS_PER_BLOCK: Final = 512
_QUERIES_PER_BLOCK: Final = 32
# Where rows have at least as many tokens: a block of queries walks through all keys of its row again.
_QUERIES_OF_PROMPTS: Final = 128
_VMEM_BYTES: Final = 32 * 2**20


def layout(platform: str, head_dim: int, page_size: int) -> str:
    """How pages lie for the kernel of a platform ("tpu", "gpu", "cpu").

    The GPU's kernel takes powers of two alone; for other heads and pages the reference runs there, too.
    """
    if platform == "tpu":
        return COMBINED
    powers = all(size & (size - 1) == 0 for size in (head_dim, page_size))
    return BY_HEAD if platform == "gpu" and powers and head_dim >= _LEAST_WIDTH else HEADS


def attend(q: Array, pages: Pages, batch: PagedBatch, layer: Array, num_layers: int) -> Array:
    """The kernel that fits the layout of the pages; see `paged_attention.written_out`."""
    kernels = {HEADS: paged_attention.written_out, COMBINED: ragged, BY_HEAD: by_head}
    return kernels[pages.layout](q, pages, batch, layer, num_layers)


def ragged(q: Array, pages: Pages, batch: PagedBatch, layer: Array, num_layers: int) -> Array:
    """Pallas ragged paged attention for TPU: prompts and answers of any lengths in one call.

    On a mesh every device runs the kernel on its own heads.
    """
    tables = batch.block_tables + layer * (pages.keys.shape[0] // num_layers)
    return _on_own_heads(_ragged_local, pages, q, batch.lengths, tables, batch.starts, batch.count)


def by_head(q: Array, pages: Pages, batch: PagedBatch, layer: Array, num_layers: int) -> Array:
    """Pallas paged attention for GPU, which knows one query per row.

    So every token is a row of its own, with the pages of its sequence up to itself; those of a
    prompt read what they have in common again, mostly from the cache of the device.
    """
    rows, places = batch.block_tables.shape
    splits = max(1, min(_MOST_SPLITS, places // max(_KEYS_AT_A_TIME // pages.page_size, 1)))
    tables = batch.block_tables.at[batch.rows].get(mode="clip") + layer * pages.keys.shape[2]
    lengths = jnp.where(batch.rows < rows, batch.positions + 1, 0)
    return _on_own_heads(functools.partial(_by_head_local, splits), pages, q, lengths, tables)


def _by_head_local(splits: int, q: Array, keys: Array, values: Array, lengths: Array, tables: Array) -> Array:
    from jax.experimental.pallas.ops.gpu import paged_attention as library

    size, width = keys.shape[-2:]
    block = max(_KEYS_AT_A_TIME // size, 1)
    # Every block of every split is whole; what is added is beyond all lengths, and not read.
    tables = jnp.pad(tables, ((0, 0), (0, -tables.shape[1] % (splits * block))))
    keys, values = (part.reshape(part.shape[0], -1, size, width) for part in (keys, values))
    return library.paged_attention(
        q * width**-0.5, keys, values, tables, lengths, pages_per_compute_block=block, k_splits=splits
    )


def _on_own_heads(kernel: Callable[..., Array], pages: Pages, q: Array, *others: Array) -> Array:
    """Runs a kernel (q, keys, values where there are any, others) on each device's own heads."""
    held = jax.tree.leaves(pages)
    if jax.sharding.get_abstract_mesh().empty:
        return kernel(q, *held, *others)
    heads = nn.logical_to_mesh_axes((None, axes.ACT_HEADS, None))
    lying = nn.logical_to_mesh_axes(pages.axes)
    whole = [jax.sharding.PartitionSpec()] * len(others)
    return jax.shard_map(
        kernel, in_specs=(heads, *[lying] * len(held), *whole), out_specs=heads, check_vma=False
    )(q, *held, *others)


def _ragged_local(q: Array, keys: Array, lengths: Array, tables: Array, starts: Array, count: Array) -> Array:
    from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention

    size, tokens = keys.shape[1], q.shape[0]
    has_many = tokens >= _QUERIES_OF_PROMPTS * tables.shape[0]
    queries = _QUERIES_OF_PROMPTS if has_many else _QUERIES_PER_BLOCK
    run = functools.partial(
        ragged_paged_attention,
        sm_scale=q.shape[-1] ** -0.5,
        num_kv_pages_per_block=min(max(_KEYS_PER_BLOCK // size, 1), tables.shape[1]),
        num_queries_per_block=min(queries, tokens),
        vmem_limit_bytes=_VMEM_BYTES,
    )
    return run(to_lanes(q), keys, lengths, tables, starts, count)[..., : q.shape[-1]]
