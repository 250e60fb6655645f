"""What a process keeps for its next run."""

from __future__ import annotations

import pytest

from owl2_jax.core import kept


@pytest.fixture
def keeping():
    kept.keep()
    yield
    kept.forget()


def test_nothing_is_kept_where_nobody_asked():
    assert not kept.keeps()
    assert kept.kept("a", object) is not kept.kept("a", object)


def test_an_equal_key_gets_what_the_first_made_and_another_key_does_not(keeping):
    first = kept.kept(("a", 1), object)
    assert kept.kept(("a", 1), object) is first
    assert kept.kept(("a", 2), object) is not first


def test_the_thing_that_nobody_asked_for_longest_goes_first(keeping):
    old, used = kept.kept(0, object), kept.kept(1, object)
    for number in range(2, kept.MOST + 1):
        kept.kept(1, object)
        kept.kept(number, object)
    assert kept.kept(1, object) is used
    assert kept.kept(0, object) is not old


def test_asking_again_to_keep_drops_nothing(keeping):
    first = kept.kept("a", object)
    kept.keep()
    assert kept.kept("a", object) is first
