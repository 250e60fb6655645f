"""Random permutations that give any one place at a time.

Small ones are a table. Large ones are a cipher, which needs no memory for
hundreds of millions of records: a Feistel network whose two halves count to a
and b, where a x b is just above the length. What falls outside the length is
enciphered again until it falls inside (cycle walking, Black and Rogaway 2002).

Written here, and not taken from Grain, because its `index_shuffle` is no
permutation for lengths of 4^k + 1 (it leaves the last record out), and because
a run must be able to go on with the order it began with.
"""

from __future__ import annotations

import functools
import math

import numpy as np

TABLE_LENGTH = 1 << 16
_ROUNDS = 6
_BITS = (1 << 64) - 1


def permuted(place: int, length: int, seeds: tuple[int, ...]) -> int:
    """Where the permutation of 0 .. `length` - 1 that belongs to `seeds` takes `place`."""
    if length <= TABLE_LENGTH:
        return int(_table(length, seeds)[place])
    rows = math.isqrt(length - 1) + 1
    columns = -(-length // rows)
    keys = _keys(seeds)
    while True:
        place = _encipher(place, rows, columns, keys)
        if place < length:
            return place


def shuffled(length: int, seeds: tuple[int, ...]) -> np.ndarray:
    """int64[length], a random permutation."""
    # Raw bits, because NumPy keeps those the same in all its versions.
    bits = np.random.PCG64(np.random.SeedSequence(seeds)).random_raw(length)
    return np.argsort(bits, kind="stable")


def _encipher(place: int, rows: int, columns: int, keys: tuple[int, ...]) -> int:
    """A bijection of 0 .. rows x columns - 1: each half in turn moves by a hash of the other."""
    row, column = divmod(place, columns)
    for number in range(0, _ROUNDS, 2):
        row = (row + _hash(column, keys[number])) % rows
        column = (column + _hash(row, keys[number + 1])) % columns
    return row * columns + column


def _hash(value: int, key: int) -> int:
    """64 mixed bits: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    value = (value + key) & _BITS
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _BITS
    return value ^ (value >> 31)


@functools.lru_cache(maxsize=64)
def _table(length: int, seeds: tuple[int, ...]) -> np.ndarray:
    return shuffled(length, seeds).astype(np.uint16)


@functools.lru_cache(maxsize=64)
def _keys(seeds: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(int, np.random.SeedSequence(seeds).generate_state(_ROUNDS, np.uint64)))
