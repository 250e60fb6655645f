from __future__ import annotations

import time

import pytest

from owl2_jax.core.errors import Owl2Error, errors_in_place, nearest


def half(number):
    if number % 2:
        raise Owl2Error(f"{number} is odd")
    return number // 2


def ahead(numbers):
    """Draws all before it gives the first, as an engine with many rows does."""
    yield from list(numbers)


def test_errors_stand_in_the_place_of_their_results():
    for work in (iter, ahead):
        for items in ([], [1], [2], [1, 2, 3, 4, 5], [2, 4, 1, 1, 6]):
            results = list(errors_in_place(items, half, work))
            assert [str(one) if isinstance(one, Owl2Error) else 2 * one for one in results] == [
                f"{item} is odd" if item % 2 else item for item in items
            ]


@pytest.mark.parametrize(
    "wrong", ["layr_07/attention/key", "layer_07/attention/kay", "layer_7/attention/key"]
)
@pytest.mark.parametrize("others", [100, 100_000])
def test_the_nearest_of_many_names_is_found_at_once(wrong, others):
    names = [f"block_{number}/query" for number in range(others)] + ["layer_07/attention/key"]
    start = time.process_time()
    assert nearest(wrong, names, count=1) == ["layer_07/attention/key"]
    assert nearest("", names) == nearest("zzzz", names) == []
    assert time.process_time() - start < 2


def test_of_many_names_that_are_all_alike_some_near_ones_are_found():
    names = [f"{number:012}.jpg" for number in range(100_000)]
    assert nearest("000000012345.jpeg", names, count=1) == ["000000012345.jpg"]
    assert len(nearest("000000999999.jpg", names)) == 3
