"""Which answers of a search go on, by numbers that can be followed by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from owl2_jax.beam_search.ranking import Search

END = 0


def search(beams: int = 2, limit: int = 3, penalty: float = 1.0) -> Search:
    return Search(SimpleNamespace(limit=limit), beams, penalty)


def step(one: Search, *rows: list[tuple[int, float]]) -> list[int]:
    """Extends each answer by its tokens with their log-probabilities."""
    logprobs = np.array([[value for _, value in row] for row in rows], np.float32)
    tokens = np.array([[token for token, _ in row] for row in rows])
    return one.advance(logprobs, tokens, END)


def test_the_best_go_on_and_say_what_they_extend():
    one = search()
    assert step(one, [(5, -1.0), (6, -2.0), (7, -3.0), (8, -4.0)]) == [0, 0]
    assert [beam.tokens for beam in one.running] == [[5], [6]]
    rows = [(1, -5.0), (2, -6.0), (3, -7.0), (4, -8.0)], [(1, -0.5), (2, -0.75), (3, -7.0), (4, -8.0)]
    assert step(one, *rows) == [1, 1]
    assert [(beam.tokens, float(beam.score)) for beam in one.running] == [([6, 1], -2.5), ([6, 2], -2.75)]


def test_what_ends_is_finished_and_the_search_goes_on_while_it_can_get_better():
    one = search(penalty=0.0)
    step(one, [(END, -1.0), (5, -1.5), (6, -2.0), (7, -9.0)])
    assert [beam.tokens for beam in one.finished] == [[END]]
    assert one.going
    step(one, [(END, -0.25), (1, -3.0), (2, -4.0), (3, -5.0)], [(1, -6.0), (2, -7.0), (3, -8.0), (4, -9.0)])
    assert [float(beam.score) for beam in one.finished] == [-1.0, -1.75]
    assert not one.going  # every further token lowers the sum


def test_at_the_limit_all_are_finished_by_their_divided_sums():
    one = search(limit=1, penalty=2.0)
    step(one, [(5, -1.0), (6, -2.0), (7, -3.0), (8, -4.0)])
    assert [(beam.tokens, float(beam.score)) for beam in one.finished] == [([5], -1.0), ([6], -2.0)]
    assert not one.going


def test_what_cannot_be_is_no_answer():
    one = search()
    assert step(one, [(5, -1.0), (6, -np.inf), (END, -np.inf), (8, -np.inf)]) == [0]
    assert (len(one.running), one.finished) == (1, [])
