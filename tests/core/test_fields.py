from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import OldNames, from_dict, to_dict


@dataclass(frozen=True)
class Renamed:
    OLD_NAMES: ClassVar[OldNames] = {
        "lr": lambda value: {"trainable": False} if value is None else {"rate": value},
        "width": "size",
    }

    rate: float = 1.0
    trainable: bool = True
    size: int = 1


def test_older_names_of_fields_are_read():
    assert from_dict(Renamed, {"lr": None, "width": 3}) == Renamed(1.0, False, 3)
    assert from_dict(Renamed, {"lr": 0.5}) == Renamed(0.5)
    assert to_dict(Renamed()) == {"rate": 1.0, "trainable": True, "size": 1}


def test_an_older_name_beside_the_new_one_is_refused():
    with pytest.raises(Owl2Error, match="g has both 'size' and its older name 'width'; leave the older out"):
        from_dict(Renamed, {"width": 3, "size": 4}, "g")


@dataclass(frozen=True)
class Member:
    kind: str
    size: int = 1


@dataclass(frozen=True)
class Group:
    sets: dict[str, Member] = field(default_factory=dict)
    members: tuple[Member, ...] = ()


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            {"captons": {"size": 3}, "captions": {"kind": "a"}, "words": {"kind": "b"}},
            "sets.captons: required kind not given; did you mean 'captions'? Known: captions, words.",
        ),
        (
            {"xyz": {"size": 3}, "facts": {"kind": "b"}},
            "sets.xyz: required kind not given. Known: facts.",
        ),
        ({"captons": {"size": 3}, "captins": {}}, "sets.captons: required kind not given"),
    ],
)
def test_an_entry_without_what_it_needs_may_be_another_one_misspelt(sets, message):
    with pytest.raises(Owl2Error) as caught:
        from_dict(Group, {"sets": sets})
    assert str(caught.value) == message


def test_a_member_of_a_list_that_is_not_there_cannot_be_changed():
    with pytest.raises(Owl2Error) as caught:
        from_dict(Group, {"members": {"captions": {"size": 3}}})
    assert str(caught.value).endswith("; members has no member to change, give all of it, as members=[{...}]")
