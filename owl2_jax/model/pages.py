"""The decoder's key/value cache in pages, and which of them the tokens of a step see.

A page holds the keys and values of `page_size` positions of one layer. All
layers lie in one array, layer after layer, so that a scan over layers carries
it and nothing is sliced: page p of layer l is page l * P + p. Which pages hold a
sequence says its row of the block tables; rows may share pages.

    block tables [S, W]        pages of a layer
    row 0: 4 1                 0   1   2   3   4   5 ...
    row 1: 4 3                     ^-- row 0, positions page_size and on
                               row 0 and 1, their first positions --^
"""

from __future__ import annotations

from typing import Final

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from owl2_jax.core import axes
from owl2_jax.model.config import Owl2Config

Array = jax.Array

# How pages lie in memory: "heads" for the written-out reference, "combined" for the TPU's kernel,
# which wants keys and values of a head as neighbours, "by_head" for the GPU's, of which every
# block works for one head.
HEADS: Final = "heads"
COMBINED: Final = "combined"
BY_HEAD: Final = "by_head"
LANES: Final = 128  # of a TPU's registers
_AXES: Final = {
    HEADS: (None, axes.ACT_HEADS, None, None),
    COMBINED: (None, None, axes.ACT_HEADS, None),
    BY_HEAD: (axes.ACT_HEADS, None, None, None, None),
}


@flax.struct.dataclass
class Pages:
    """P pages of each of L layers.

    Attributes:
      keys, values: dtype[L * P, K, H, page_size], after rotation, and dtype[L * P, K, page_size, H]:
        what a product sums comes before the last axis; or, by head, both
        dtype[K, L, P, page_size, H]; or, combined, keys dtype[L * P, page_size, 2 K, H'] with keys
        and values in turn, and no values. H' is H with zeros up to whole lanes of the TPU.
    """

    keys: Array
    values: Array | None

    @property
    def layout(self) -> str:
        """How they lie."""
        if self.values is None:
            return COMBINED
        return BY_HEAD if self.keys.ndim == 5 else HEADS

    @property
    def page_size(self) -> int:
        """Positions of a page."""
        return self.keys.shape[1] if self.values is None else self.values.shape[-2]

    @property
    def axes(self) -> tuple[str | None, ...]:
        """Where they lie on a mesh: heads over the tensor axis, everything else whole."""
        return _AXES[self.layout]


@flax.struct.dataclass
class PagedBatch:
    """A flat batch of T tokens of S rows, which are sequences with some of their tokens each.

    Tokens of a row are neighbours and in order; rows without tokens come last.

    Attributes:
      rows: int32[T], row of each token; S for padding.
      positions: int32[T], of each token in its sequence.
      block_tables: int32[S, W], pages of each row in the order of their positions.
      starts: int32[S + 1], first token of each row, and behind them the number of tokens.
      lengths: int32[S], positions of each row, the tokens of this batch among them; 0 for none.
      count: int32[1], rows that have tokens.
      prompt_lengths: int32[S], positions of each row's prompt; what evaluation does beyond
        the trained length hangs on it.
    """

    rows: Array
    positions: Array
    block_tables: Array
    starts: Array
    lengths: Array
    count: Array
    prompt_lengths: Array

    def of_tokens(self, at: Array) -> PagedBatch:
        """Where these tokens int32[n] lie, T and beyond being padding; rows stay as they are."""
        rows = self.rows.at[at].get(mode="fill", fill_value=self.block_tables.shape[0])
        return self.replace(rows=rows, positions=self.positions.at[at].get(mode="clip"))


def empty_pages(config: Owl2Config, count: int, page_size: int, layout: str = HEADS) -> Pages:
    """P = `count` pages for every layer, all zeros."""
    decoder = config.decoder
    total, heads, width = decoder.num_layers * count, decoder.num_kv_heads, decoder.head_dim
    if layout == COMBINED:
        return _constrain(
            Pages(to_lanes(jnp.zeros((total, page_size, 2 * heads, width), config.dtype)), None)
        )
    of_keys, of_values = (total, heads, width, page_size), (total, heads, page_size, width)
    if layout == BY_HEAD:
        of_keys = of_values = (heads, decoder.num_layers, count, page_size, width)
    return _constrain(Pages(jnp.zeros(of_keys, config.dtype), jnp.zeros(of_values, config.dtype)))


def _constrain(pages: Pages) -> Pages:
    """Says where pages lie on a mesh."""
    return jax.tree.map(lambda part: nn.with_logical_constraint(part, pages.axes), pages)


def to_lanes(x: Array) -> Array:
    """dtype[..., H] with zeros behind, up to a multiple of the TPU's 128 lanes."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % LANES)])


def keys_of(pages: Pages, table: Array, layer: Array, num_layers: int, width: int) -> Array:
    """Keys that pages int32[W] of a layer hold, side by side: dtype[W * page_size, K, H = width]."""
    count, size = _pages_per_layer(pages, num_layers), pages.page_size
    if pages.layout == BY_HEAD:
        keys = pages.keys[:, layer, table].transpose(1, 2, 0, 3)
    elif pages.layout == COMBINED:
        keys = pages.keys[table + layer * count, :, 0::2, :width]
    else:
        keys = pages.keys[table + layer * count].transpose(0, 3, 1, 2)
    return keys.reshape(table.shape[0] * size, -1, width)


def write_tokens(pages: Pages, k: Array, v: Array, batch: PagedBatch, layer: Array, num_layers: int) -> Pages:
    """Puts keys and values dtype[T, K, H] of a batch where its block tables say; padding is dropped."""
    if pages.values is None:
        # Joined side by side: as a stack of both a TPU copies them twice more.
        pairs = jnp.concatenate([k, v], axis=-1).reshape(k.shape[0], -1, k.shape[-1])
        return write_pairs(pages, pairs, batch, layer, num_layers)
    table, page, offset = _places(pages, batch, layer, num_layers)
    padding = batch.rows >= batch.block_tables.shape[0]
    dtype = pages.keys.dtype
    if pages.layout == BY_HEAD:
        layer = jnp.where(padding, num_layers, layer)

        def put(part: Array, new: Array) -> Array:
            return part.at[:, layer, table, offset].set(new.swapaxes(0, 1).astype(dtype), mode="drop")

        return _constrain(Pages(put(pages.keys, k), put(pages.values, v)))
    keys = pages.keys.at[page, :, :, offset].set(k.astype(dtype), mode="drop")
    values = pages.values.at[page, :, offset].set(v.astype(dtype), mode="drop")
    return _constrain(Pages(keys, values))


def write_pairs(pages: Pages, pairs: Array, batch: PagedBatch, layer: Array, num_layers: int) -> Pages:
    """`write_tokens` where keys and values lie together: dtype[T, 2 K, H], of every head its key first."""
    _, page, offset = _places(pages, batch, layer, num_layers)
    both = to_lanes(pairs).astype(pages.keys.dtype)
    return _constrain(Pages(pages.keys.at[page, offset].set(both, mode="drop"), None))


def _places(pages: Pages, batch: PagedBatch, layer: Array, num_layers: int) -> tuple[Array, Array, Array]:
    """Of each token, int32[T]: its page by its row's table, that among all layers' pages, its place there.

    A token of padding gets a page past the end.
    """
    count, size = _pages_per_layer(pages, num_layers), pages.page_size
    table = batch.block_tables.at[batch.rows, batch.positions // size].get(mode="clip")
    padding = batch.rows >= batch.block_tables.shape[0]
    page = jnp.where(padding, num_layers * count, table + layer * count)
    return table, page, batch.positions % size


def copy_pages(pages: Pages, sources: Array, targets: Array, num_layers: int) -> Pages:
    """Copies whole pages of every layer, int32[C] each; a target of P (past the end) is dropped."""
    count = _pages_per_layer(pages, num_layers)
    if pages.layout == BY_HEAD:
        return jax.tree.map(
            lambda part: part.at[:, :, targets].set(part.at[:, :, sources].get(mode="clip"), mode="drop"),
            pages,
        )
    first = jnp.arange(num_layers)[:, None] * count
    read = (first + jnp.minimum(sources, count - 1)).reshape(-1)
    written = jnp.where(targets < count, first + targets, num_layers * count).reshape(-1)
    return jax.tree.map(lambda part: part.at[written].set(part[read], mode="drop"), pages)


def _pages_per_layer(pages: Pages, num_layers: int) -> int:
    return pages.keys.shape[2] if pages.layout == BY_HEAD else pages.keys.shape[0] // num_layers
