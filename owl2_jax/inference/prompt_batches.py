"""Whole prompts in batches of few sizes, for options and beam search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import jax

from owl2_jax.inference.buckets import bucket, length_buckets, power_buckets
from owl2_jax.inference.inputs import Prompt, stack_prompts
from owl2_jax.inference.model_runner import ModelRunner
from owl2_jax.inference.whole_prompts import Prompts

Item = TypeVar("Item")
Value = TypeVar("Value")

_WINDOW = 64  # items looked at together, so that those of like length can share a batch
_ROWS = 8  # most prompts of a batch


def in_batches(
    runner: ModelRunner,
    items: Iterable[Item],
    prompt_of: Callable[[Item], Prompt],
    work: Callable[[ModelRunner, list[Item]], Sequence[Value]],
) -> Iterator[Value]:
    """Gives items to `work` in batches of like length, and yields the values in order of the items."""
    source = iter(items)
    while window := list(islice(source, _WINDOW)):
        values: dict[int, Value] = {}
        for group in _groups(runner, [prompt_of(item) for item in window]):
            values |= zip(group, work(runner, [window[number] for number in group]), strict=True)
        yield from (values[number] for number in range(len(window)))


def stack(runner: ModelRunner, prompts: Sequence[Prompt]) -> tuple[Prompts, jax.Array | None]:
    """Prompts of a batch side by side, and the pool with the features of their images (None without)."""
    runner.features.make_ready(image for prompt in prompts for image in prompt.images)
    decoder = runner.model.config.decoder
    rows = bucket(len(prompts), row_counts(runner))
    length = bucket(max(map(len, prompts)), length_buckets(decoder.max_length))
    stacked = stack_prompts(prompts, rows, length, decoder.vocab_size, runner.features.row)
    return stacked, runner.features.array if prompts[0].images else None


def _groups(runner: ModelRunner, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
    """Numbers of prompts that run together: with or without images, of like length."""
    most = row_counts(runner)[-1]
    for with_images in (False, True):
        numbers = [n for n, prompt in enumerate(prompts) if bool(prompt.images) == with_images]
        numbers.sort(key=lambda n: len(prompts[n]))
        group: list[int] = []
        for number in numbers:
            keys = {image.key for n in [*group, number] for image in prompts[n].images}
            if len(group) == most or (group and len(keys) > runner.features.rows):
                yield group
                group = []
            group.append(number)
        if group:
            yield group


def row_counts(runner: ModelRunner) -> tuple[int, ...]:
    """Prompts that a batch is padded to, ascending: multiples of what a mesh cuts them into."""
    ways = runner.sizes.images[0]
    return power_buckets(max(_ROWS, ways), 8, ways)
