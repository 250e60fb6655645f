"""Samples and streams of them, for the tests of packing and batches."""

from __future__ import annotations

import numpy as np

from owl2_jax.data.batch import Sample
from owl2_jax.data.encode import Rejected

Item = tuple[Sample | None, Rejected | None]


def sample(length: int, images: int = 0, targets: int | None = None, seed: int = 0, span: int = 5) -> Sample:
    """A random sample whose images take `span` positions each, from position 1 on."""
    rng = np.random.default_rng([seed, length, images])
    starts = np.arange(images, dtype=np.int32) * span + 1
    tokens = rng.integers(3, 300, length).astype(np.int32)
    labels = np.full(length, -100, np.int32)
    for start in starts:
        tokens[start : start + span] = 0
    targets = max(1, (length - 1 - images * span) // 2) if targets is None else targets
    labels[length - targets :] = tokens[length - targets :]
    pixels = tuple(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8) for _ in starts)
    return Sample(tokens, labels, starts, pixels, dataset=seed % 3, targets=targets)


def rejected(record: int, reason: str = "corrupt", used: bool = False) -> Rejected:
    return Rejected("a", record, str(record), reason, "found x, expected y", used)


class Stream:
    """An endless stream that repeats its items; place n holds item n modulo their number."""

    def __init__(self, items: list[Item]) -> None:
        self.items = items

    def __getitem__(self, place: int) -> Item:
        return self.items[place % len(self.items)]


def numbered_stream(count: int, max_length: int = 40, max_images: int = 2, seed: int = 0) -> Stream:
    """Samples of random length, each recognisable by its first token, its number."""
    rng = np.random.default_rng(seed)
    items: list[Item] = []
    for number in range(count):
        images = int(rng.integers(0, max_images + 1))
        one = sample(int(rng.integers(2 + images * 5 + 1, max_length)), images, seed=number)
        one.tokens[0] = number
        items.append((one, None))
    return Stream(items)


def numbers(batch) -> list[int]:
    """First tokens of the samples of a batch, row by row."""
    first = (batch.segment_ids > 0) & (batch.positions == 0)
    return batch.tokens[first].tolist()
