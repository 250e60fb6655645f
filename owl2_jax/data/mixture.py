"""Which record comes when: sets mixed by weight or by epochs, each shuffled again in every epoch.

A mixture is a pure function from a position to a record, so it needs no state,
any process can read any part of it, and a run can go on from any position.

    position      0  1  2  3  4  5  6  7  8  9 ...
    set           b  a  a  b  a  a  b  a  a  a       shuffled in blocks, shares exact per round
    place in set  0  0  1  1  2  3  2  4  5  6       counts up within each set
    record        7  2  9  0  4  1  5  0  3  8       the place, permuted by the epoch's own seed
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import grain
import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.permutation import permuted, shuffled

# Positions whose sets are drawn together; a block's table takes 0.5 MB.
BLOCK = 1 << 16
# Records of a round when sets are mixed by weight: shares are exact to a millionth.
_WEIGHT_ROUND = 1_000_000
_BLOCKS_KEPT = 4


@dataclass(frozen=True)
class Address:
    """Where a sample comes from.

    Attributes:
      dataset: number of the set in the mixture.
      record: number of the record in its source.
      epoch: how often the set was read through before.
    """

    dataset: int
    record: int
    epoch: int


def round_shares(
    names: Sequence[str], lengths: Sequence[int], weights: Sequence[float], epochs: Sequence[float | None]
) -> list[int]:
    """Records of each set in a round.

    With epochs, a round is what the config asks for: `epochs` times the
    records of each set. With weights, it is a million records in their ratio.

    Raises:
      Owl2Error: a set is empty, only some sets have epochs, or a share comes to nothing.
    """
    for name, length in zip(names, lengths, strict=True):
        if not length:
            raise Owl2Error(f"data.datasets.{name} has no records; give it some or leave it out")
    without = [name for name, value in zip(names, epochs, strict=True) if value is None]
    if without and len(without) < len(names):
        raise Owl2Error(
            f"data.datasets: {', '.join(without)} has no epochs, but other sets have; "
            "give epochs to all or to none"
        )
    if without:
        shares = [round(weight / sum(weights) * _WEIGHT_ROUND) for weight in weights]
    else:
        shares = [round(length * value) for length, value in zip(lengths, epochs, strict=True)]
    for name, share in zip(names, shares, strict=True):
        if not share:
            raise Owl2Error(
                f"data.datasets.{name}: its weight or epochs come to less than one record; raise them"
            )
    return shares


class Mixture(grain.MapDataset[Address]):
    """The endless mixture of sets.

    Args:
      lengths: records of each set.
      shares: records of each set in a round, see `round_shares`; after every
        whole round each set has been read exactly that often.
      seed: of the order.
    """

    def __init__(self, lengths: Sequence[int], shares: Sequence[int], seed: int) -> None:
        super().__init__()
        self._lengths, self._shares, self._seed = tuple(lengths), tuple(shares), seed
        self._round = sum(shares)
        self._blocks: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: int) -> Address:
        number, offset = divmod(position, self._round)
        block, offset = divmod(offset, BLOCK)
        sets, places = self._block(number, block)
        dataset = int(sets[offset])
        place = number * self._shares[dataset] + int(places[offset])
        epoch, place = divmod(place, self._lengths[dataset])
        record = permuted(place, self._lengths[dataset], (self._seed, dataset, epoch))
        return Address(dataset, record, epoch)

    def __getstate__(self) -> dict:
        return {**vars(self), "_blocks": {}}  # worker processes make their own

    def _block(self, number: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """(set, place in the round's share of that set) of every position of a block."""
        key = (number, block)
        found = self._blocks.get(key)
        if found is None:
            found = self._draw(number, block)
            if len(self._blocks) >= _BLOCKS_KEPT:
                self._blocks = {}
            self._blocks[key] = found
        return found

    def _draw(self, number: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        first, last = block * BLOCK, min((block + 1) * BLOCK, self._round)
        before = np.array(split(first, self._shares))
        counts = np.array(split(last, self._shares)) - before
        order = shuffled(last - first, (self._seed, number, block))
        sets = np.repeat(np.arange(len(counts), dtype=np.int32), counts)[order]
        places = np.empty(last - first, np.int64)
        for dataset, count in enumerate(counts):
            places[sets == dataset] = before[dataset] + np.arange(count)
        return sets, places


def split(positions: int, shares: Sequence[int]) -> list[int]:
    """How many of the first `positions` of a round each set has; grows evenly, sums to `positions`."""
    counts, left, rest = [], positions, sum(shares)
    for share in shares:
        others = left * (rest - share) // rest
        counts.append(left - others)
        left, rest = others, rest - share
    return counts
