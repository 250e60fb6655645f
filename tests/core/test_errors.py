from __future__ import annotations

from owl2_jax.core.errors import Owl2Error, errors_in_place


def half(number):
    if number % 2:
        raise Owl2Error(f"{number} is odd")
    return number // 2


def ahead(numbers):
    """Draws all before it gives the first, as an engine with many slots does."""
    yield from list(numbers)


def test_errors_stand_in_the_place_of_their_results():
    for work in (iter, ahead):
        for items in ([], [1], [2], [1, 2, 3, 4, 5], [2, 4, 1, 1, 6]):
            results = list(errors_in_place(items, half, work))
            assert [str(one) if isinstance(one, Owl2Error) else 2 * one for one in results] == [
                f"{item} is odd" if item % 2 else item for item in items
            ]
