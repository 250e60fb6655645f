"""What runs next, with sequences of a few lines and no device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from owl2_jax.inference.inputs import Prompt
from owl2_jax.inference.kv_cache import PagePool
from owl2_jax.inference.prefix_cache import PrefixCache
from owl2_jax.inference.request import Request
from owl2_jax.inference.scheduler import Budget, Plan, Scheduler
from owl2_jax.inference.sequence import Sequence

SPAN = 3


@dataclass
class Named:
    """An image of which nothing but the key is asked."""

    key: bytes


class Prompts:
    """Makes sequences of different tokens."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, length: int, limit: int = 8, images: tuple[tuple[int, str], ...] = ()) -> Sequence:
        self.made += 1
        tokens = np.arange(length, dtype=np.int32) + 1000 * self.made
        prompt = Prompt(tokens, [at for at, _ in images], [], SPAN)
        prompt.images = [Named(name.encode()) for _, name in images]
        return Sequence(self.made, Request("a"), prompt, limit, None)


def scheduler(pages: int = 32, known: tuple[bytes, ...] = (), **changes: int) -> Scheduler:
    limits = {"sequences": 4, "tokens": 16, "rows": 4, "images": 2, "features": 8, "decode_steps": 2}
    pool = PagePool(pages, 4)
    cache = PrefixCache(pool, enabled=False)
    return Scheduler(pool, cache, Budget(**(limits | changes)), lambda image: image.key in known)


def run(one: Scheduler) -> Plan:
    """Plans a step and does as if the device had chosen tokens."""
    plan = one.plan()
    one.ran(plan)
    for chunk in plan.chunks:
        if chunk.last:
            chunk.sequence.append(np.array([7], np.int32))
    for sequence in plan.decoding:
        sequence.append(np.full(min(2, sequence.left), 7, np.int32))
    for sequence in list(one.running):
        if not sequence.left:
            one.remove(sequence)
    return plan


def pieces(plan: Plan) -> list[tuple[int, int, int]]:
    return [(chunk.sequence.request_id, chunk.start, chunk.end) for chunk in plan.chunks]


def test_a_long_prompt_goes_in_chunks_and_answers_go_on_between_them():
    one, prompt = scheduler(), Prompts()
    short, long = prompt(4), prompt(40)
    one.add(short)
    run(one)
    one.add(long)
    for start in (0, 16):
        plan = run(one)
        assert pieces(plan) == [(2, start, start + 16)]
        assert plan.decoding == [short]
    assert pieces(run(one)) == [(2, 32, 40)]


def test_first_come_first_served_within_the_budget():
    one, prompt = scheduler(), Prompts()
    for length in (6, 6, 6, 6):
        one.add(prompt(length))
    assert pieces(run(one)) == [(1, 0, 6), (2, 0, 6), (3, 0, 4)]
    assert pieces(run(one)) == [(3, 4, 6), (4, 0, 6)]


def test_no_more_run_than_there_are_rows():
    one, prompt = scheduler(sequences=2), Prompts()
    for _ in range(3):
        one.add(prompt(3, limit=1))
    assert len(run(one).chunks) == 2
    assert [sequence.request_id for sequence in one.waiting] == [3]
    assert pieces(run(one)) == [(3, 0, 3)]
    assert not one.running


def test_when_pages_run_out_the_newest_is_put_back_and_nothing_is_lost():
    one, prompt = scheduler(pages=8), Prompts()
    old, new = prompt(12, limit=12), prompt(11, limit=12)
    one.add(old)
    one.add(new)
    steps = 0
    while one.running or one.waiting:
        run(one)
        assert one.running[:1] in ([old], [new], [])
        steps += 1
        assert steps < 50
    assert one.preempted > 0
    assert old.generated == new.generated == 12
    assert one._pool.num_free == 8


def test_a_sequence_that_is_put_back_is_the_first_to_come_again():
    one, prompt = scheduler(pages=8), Prompts()
    sequences = [prompt(12, limit=12), prompt(11, limit=12), prompt(3, limit=2)]
    for sequence in sequences:
        one.add(sequence)
    while not one.preempted:
        run(one)
    assert one.waiting[0].request_id < 3 or len(one.waiting) == 1


def test_removed_sequences_free_rows_and_pages_at_once():
    one, prompt = scheduler(), Prompts()
    running, waiting = prompt(9), prompt(9)
    one.add(running)
    run(one)
    one.add(waiting)
    one.remove(waiting)
    one.remove(running)
    assert one._pool.num_free == 32
    assert not list(one)
    for _ in range(4):
        one.add(prompt(3))
    assert len(run(one).chunks) == 4


def test_a_chunk_ends_before_an_image_too_many():
    one, prompt = scheduler(known=(b"a",)), Prompts()
    one.add(prompt(16, images=((0, "a"), (3, "b"), (6, "b"), (9, "c"), (12, "d"))))
    assert pieces(run(one)) == [(1, 0, 12)]
    assert pieces(run(one)) == [(1, 12, 16)]


def test_a_chunk_holds_no_more_images_than_the_pool():
    one, prompt = scheduler(known=(b"a", b"b", b"c"), features=2), Prompts()
    one.add(prompt(12, images=((0, "a"), (4, "b"), (8, "c"))))
    assert pieces(run(one)) == [(1, 0, 8)]
