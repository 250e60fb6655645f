from __future__ import annotations

import itertools

import pytest

from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.model import adaptive
from owl2_jax.model.config import DecoderConfig


@pytest.mark.parametrize(
    ("written", "name", "parts"),
    [
        ("full", "full", {"norms", "k", "v"}),
        ("norms+k+v", "full", {"norms", "k", "v"}),
        ("full+q", "all", {"norms", "q", "k", "v"}),
        ("v + k", "kv", {"k", "v"}),
        ("q+norms", "norms+q", {"norms", "q"}),
        ("k", "k", {"k"}),
        ("none", "none", set()),
    ],
)
def test_a_set_is_names_and_parts_joined(written: str, name: str, parts: set[str]) -> None:
    assert adaptive.parts(written) == parts
    assert adaptive.canonical(written) == name
    assert DecoderConfig(adaptive=written) == DecoderConfig(adaptive=name)


def test_every_set_has_one_spelling() -> None:
    sets = [c for n in range(5) for c in itertools.combinations(adaptive.PARTS, n)]
    spelt = {adaptive.canonical("+".join(chosen) or "none") for chosen in sets}
    assert len(spelt) == len(sets) == 16


def test_other_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'norm'.*norms"):
        adaptive.parts("q+norm")
    with pytest.raises(Owl2Error, match="joins none with something"):
        adaptive.parts("none+q")
    with pytest.raises(UnknownNameError):
        adaptive.parts("")
