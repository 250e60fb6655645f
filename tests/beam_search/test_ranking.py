"""Which answers of a search go on, by numbers that can be followed by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from owl2_jax.beam_search.ranking import Answers, Rules, advance, divisors, empty

END, NEVER = 0, -np.inf


class Steps:
    """A search that says after every step what goes on."""

    def __init__(
        self, beams: int = 2, limit: int = 3, penalty: float = 1.0, end_table: np.ndarray | None = None
    ):
        self.answers: Answers = empty(beams)
        rules = Rules(*map(jnp.asarray, (limit, 0, divisors(10, penalty))))
        table = None if end_table is None else jnp.asarray(end_table)
        self._advance = jax.jit(
            lambda answers, logprobs, tokens: advance(answers, logprobs, tokens, rules, END, table)
        )

    def step(self, *rows: list[tuple[int, float]]) -> list[tuple[int, int]]:
        """Extends each answer by its tokens with their log-probabilities: what each extends, and by what."""
        beams = len(self.answers.scores)
        logprobs = np.full((beams, len(rows[0])), NEVER, np.float32)
        tokens = np.zeros(logprobs.shape, np.int32)
        logprobs[: len(rows)] = [[value for _, value in row] for row in rows]
        tokens[: len(rows)] = [[token for token, _ in row] for row in rows]
        self.answers, grown = jax.device_get(self._advance(self.answers, logprobs, tokens))
        real = self.answers.scores > NEVER
        return list(zip(grown.parents[real].tolist(), grown.tokens[real].tolist(), strict=True))

    @property
    def scores(self) -> list[float]:
        """Of the unfinished answers."""
        return [value for value in self.answers.scores.tolist() if value > NEVER]

    @property
    def finished(self) -> list[tuple[int, int, float]]:
        """What each finished answer extends, its last token and its score."""
        found = self.answers.finished
        every = zip(found.parents.tolist(), found.tokens.tolist(), found.scores.tolist(), strict=True)
        return [one for one in every if one[2] > NEVER]


def test_the_best_go_on_and_say_what_they_extend():
    one = Steps()
    assert one.step([(5, -1.0), (6, -2.0), (7, -3.0), (8, -4.0)]) == [(0, 5), (0, 6)]
    rows = [(1, -5.0), (2, -6.0), (3, -7.0), (4, -8.0)], [(1, -0.5), (2, -0.75), (3, -7.0), (4, -8.0)]
    assert one.step(*rows) == [(1, 1), (1, 2)]
    assert one.scores == [-2.5, -2.75]


def test_what_ends_is_finished_and_the_search_goes_on_while_it_can_get_better():
    one = Steps(penalty=0.0)
    one.step([(END, -1.0), (5, -1.5), (6, -2.0), (7, -9.0)])
    assert one.finished == [(0, END, -1.0)]
    assert one.answers.going
    one.step([(END, -0.25), (1, -3.0), (2, -4.0), (3, -5.0)], [(1, -6.0), (2, -7.0), (3, -8.0), (4, -9.0)])
    assert one.finished == [(0, END, -1.0), (0, END, -1.75)]
    assert one.answers.finished.steps.tolist() == [0, 1]
    assert not one.answers.going  # every further token lowers the sum


def test_at_the_limit_all_are_finished_by_their_divided_sums():
    one = Steps(limit=1, penalty=2.0)
    one.step([(5, -1.0), (6, -2.0), (7, -3.0), (8, -4.0)])
    assert one.finished == [(0, 5, -1.0), (0, 6, -2.0)]
    assert not one.answers.going


def test_what_cannot_be_is_no_answer():
    one = Steps()
    assert one.step([(5, -1.0), (6, NEVER), (END, NEVER), (8, NEVER)]) == [(0, 5)]
    assert one.finished == []


def test_a_text_that_ends_answers_is_followed_over_tokens():
    """Token 3 begins it and token 4 ends it; whatever else comes between makes it nothing again."""
    table = np.zeros((2, 9), np.int8)
    table[:, 3], table[1, 4] = 1, 2
    one = Steps(end_table=table)
    assert one.step([(3, -1.0), (4, -2.0), (7, -3.0)]) == [(0, 3), (0, 4)]
    assert one.answers.written.tolist() == [1, 0]
    assert one.step([(4, -0.5), (5, -9.0), (6, -9.5)], [(4, -1.0), (3, -2.0), (6, -3.0)]) == [(1, 4), (1, 3)]
    assert one.finished == [(0, 4, -0.75)]
    assert one.answers.written.tolist() == [0, 1]
