"""A few static sizes that arrays are padded to, so that few programs are compiled."""

from __future__ import annotations

from collections.abc import Sequence


def length_buckets(longest: int, shortest: int = 16) -> tuple[int, ...]:
    """16, 32, 48, 64, 96, 128, 192, ..., ending in `longest`: beyond 32, at most a third is padding."""
    sizes, size = [], shortest
    while size < longest:
        sizes.append(size)
        if size > shortest and size * 3 // 2 < longest:
            sizes.append(size * 3 // 2)
        size *= 2
    return (*sizes, longest)


def power_buckets(largest: int, base: int = 2, smallest: int = 1) -> tuple[int, ...]:
    """smallest, smallest * base, smallest * base**2, ..., ending in `largest`."""
    sizes, size = [], smallest
    while size < largest:
        sizes.append(size)
        size *= base
    return (*sizes, largest)


def bucket(size: int, buckets: Sequence[int]) -> int:
    """The smallest of ascending `buckets` that holds `size`."""
    for candidate in buckets:
        if candidate >= size:
            return candidate
    raise ValueError(f"{size} is above the largest bucket, {buckets[-1]}")


def power_of_two(size: int) -> int:
    """The smallest power of two that holds `size`."""
    return 1 << (size - 1).bit_length()
