from __future__ import annotations

from dataclasses import dataclass
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
