from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from owl2_jax.checkpoint.overlap import read_ahead, write_behind


def test_items_come_in_order_and_one_is_made_ahead() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for number in range(4):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    ahead = read_ahead(items())
    assert next(ahead) == 0
    assert second.wait(10)  # made while nobody asked for it yet
    assert list(ahead) == [1, 2, 3]
    assert made == [0, 1, 2, 3]
    assert list(read_ahead(iter([]))) == []


def test_an_error_of_an_item_is_raised_at_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    ahead = read_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(OSError, match="disk"):
        next(ahead)


def test_calls_run_in_order_and_are_done_at_the_end() -> None:
    done: list[int] = []
    with write_behind() as run:
        for number in range(5):
            run(done.append, number)
    assert done == [0, 1, 2, 3, 4]


def test_an_error_of_a_call_is_not_lost() -> None:
    def fail() -> None:
        raise OSError("disk")

    def last_call() -> None:
        with write_behind() as run:
            run(fail)

    def earlier_call() -> None:
        with write_behind() as run:
            run(fail)
            run(lambda: None)
            pytest.fail("the second call must not start")

    for block in (last_call, earlier_call):
        with pytest.raises(OSError, match="disk"):
            block()
