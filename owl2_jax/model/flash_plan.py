"""How much of flash attention a step of its grid computes, and where its blocks lie.

queries     0 1 2 3        Scores are computed keys x queries, tile by tile. Causal rows leave out the
keys   0    d x x x        tiles below the diagonal; in the others each query has a span of keys that
       1      d x x        it sees.
       2        d x
       3          d
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

LANES: Final = 128  # of a register
_TILES: Final = range(LANES, 641, LANES)
# Keys and queries that a tile takes as long as by itself, before a matrix unit is filled.
_TILE_START: Final = 64
_TOKENS_PER_STEP: Final = 2048  # of all heads: a step of the grid takes time by itself
# Numbers that a kernel holds of a tile at a time, each of twice the inputs' size: products of float32 are
# several.
_NUMBERS_HELD: Final = 12

Angles = tuple[Array, Array] | tuple[()]  # from `rotary.rolled_angles`, or none
Spans = tuple[Array, Array] | tuple[()]  # first and last key that each query sees, int32[B, 1, T], or all


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes of a call.

    Attributes:
      length: T.
      padded: the same in whole tiles; what lies beyond T is of no array.
      head_dim: H.
      group: channels of a head, or of those that share a register.
      width: channels of a block.
      per_keys: heads of queries per head of keys.
      tile: keys and queries at a time.
      grid: rows, blocks of keys, queries per keys.
      is_causal: whether tiles below the diagonal are left out.
    """

    length: int
    padded: int
    head_dim: int
    group: int
    width: int
    per_keys: int
    tile: int
    grid: tuple[int, int, int]
    is_causal: bool

    @property
    def rows_of_group(self) -> tuple[int, int]:
        """Shape of a row of the heads that share registers."""
        return self.padded, self.group

    @property
    def groups(self) -> list[tuple[slice, list[tuple[int, slice]]]]:
        """Lanes of a block that heads share, and these heads: the number of each and its lanes among them."""
        members = self.group // self.head_dim
        lanes = [slice(one * self.head_dim, (one + 1) * self.head_dim) for one in range(members)]
        return [
            (slice(i * self.group, (i + 1) * self.group), list(enumerate(lanes, i * members)))
            for i in range(self.width // self.group)
        ]

    @property
    def tiles(self) -> list[slice]:
        """Rows of each."""
        return [slice(start, start + self.tile) for start in range(0, self.padded, self.tile)]

    def rows(self, tile: Any) -> Any:
        """Of a tile, whose number may be that of a loop."""
        from jax.experimental import pallas as pl

        return (
            self.tiles[tile]
            if isinstance(tile, int)
            else pl.ds(pl.multiple_of(tile * self.tile, self.tile), self.tile)
        )

    def ends_in(self, rows: Any) -> bool:
        """Whether the row ends within these of its tiles; loops run over whole ones alone."""
        return isinstance(rows, slice) and rows.stop > self.length

    def each(self, tiles: range, body: Callable[[Any, Any], Any], carry: Any = None) -> Any:
        """A loop over tiles. One that the row ends in is written out, and comes last."""
        whole = range(tiles.start, min(tiles.stop, self.length // self.tile))
        if len(whole) > 1:
            carry, tiles = lax.fori_loop(whole.start, whole.stop, body, carry), range(whole.stop, tiles.stop)
        for tile in tiles:
            carry = body(tile, carry)
        return carry

    def queries(self) -> Any:
        """Block of dtype[B, T, N * H]."""
        from jax.experimental import pallas as pl

        per_keys = self.per_keys
        return pl.BlockSpec((None, self.padded, self.width), lambda b, h, g: (b, 0, h * per_keys + g))

    def keys(self) -> Any:
        """Block of dtype[B, T, K * H]."""
        from jax.experimental import pallas as pl

        return pl.BlockSpec((None, self.padded, self.width), lambda b, h, g: (b, 0, h))

    def sums(self) -> Any:
        """Block of float32[B, N, 1, T]."""
        from jax.experimental import pallas as pl

        per_keys, heads = self.per_keys, self.width // self.head_dim
        return pl.BlockSpec((None, heads, 1, self.padded), lambda b, h, g: (b, h * per_keys + g, 0, 0))

    def given(self, angles: Angles, spans: Spans) -> tuple[Any, Any]:
        """Blocks of these."""
        from jax.experimental import pallas as pl

        angle = pl.BlockSpec((None, self.padded, self.head_dim), lambda b, h, g: (b, 0, 0))
        span = pl.BlockSpec((None, 1, self.padded), lambda b, h, g: (b, 0, 0))
        return tuple(angle for _ in angles), tuple(span for _ in spans)


def plan(q: Array, k: Array, head_dim: int, is_causal: bool) -> Plan:
    """Of queries dtype[B, T, N * H] and keys dtype[B, T, K * H] that `flash` takes."""
    length, group = q.shape[1], max(head_dim, LANES)
    per_keys, groups = q.shape[-1] // k.shape[-1], k.shape[-1] // group

    def cost(tile: int) -> int:
        count = -(-length // tile)
        pairs = count * (count + 1) // 2 if is_causal else count**2
        return pairs * (tile + _TILE_START) ** 2

    tile = min(_TILES, key=cost)
    padded = -(-length // tile) * tile
    # Heads that share keys are steps after each other, which add to the gradients of these.
    most = max(_TOKENS_PER_STEP * LANES // (padded * group), 1) if per_keys == 1 else 1
    together = next(count for count in range(most, 0, -1) if groups % count == 0)
    grid = (len(q), groups // together, per_keys)
    return Plan(length, padded, head_dim, group, together * group, per_keys, tile, grid, is_causal)


def call(
    kernel: Callable[..., None], sizes: Plan, name: str, interpret: bool, in_specs: tuple[Any, ...],
    out_specs: tuple[Any, ...], out_shape: tuple[Any, ...], scratch: dict[str, tuple[tuple[int, ...], Any]],
) -> Callable[..., Any]:  # fmt: skip
    """A kernel that takes the plan, then its blocks and its scratch arrays, shape and dtype by name."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    size = out_shape[0].dtype.itemsize
    # Two of each block, of which the backward kernel has most: eight, and both angles.
    blocks = 2 * sizes.padded * (8 * sizes.width * size + 2 * sizes.head_dim * 4)
    kept = sum(math.prod(shape) * jnp.dtype(dtype).itemsize for shape, dtype in scratch.values())
    return pl.pallas_call(
        functools.partial(kernel, sizes),
        grid=sizes.grid, in_specs=in_specs, out_specs=out_specs, out_shape=out_shape,
        scratch_shapes=[pltpu.VMEM(shape, dtype) for shape, dtype in scratch.values()],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=blocks + kept + _NUMBERS_HELD * 2 * size * sizes.tile**2,
        ),
        interpret=interpret, name=name,
    )  # fmt: skip
