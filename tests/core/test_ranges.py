from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from owl2_jax.core import fields
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.ranges import AnyNumber, Count, Positive, Seed, Share, Whole, above, at_least, between


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "words"),
    [
        (at_least(1), (1, 2**31 - 1), (0, -1, 2**31), "at least 1"),
        (at_least(1, most=8), (1, 8), (0, 9), "at least 1"),
        (above(0), (2e-38, 5, 3e38), (0, -0.0, 1e-50, 1e39, math.inf, math.nan), "above 0"),
        (between(0, 1), (0, 0.5, 1), (-1e-9, 1.0001), "from 0 to 1"),
        (between(1, 1e30), (1, 9e29), (0.9, 2e30), "from 1 to 1e+30"),
        (between(0, 1, below=True), (0, 0.999), (1, 1 - 1e-12), "at least 0 and below 1"),
        (between(0, 1, above=True), (1,), (0,), "above 0 and at most 1"),
        (between(0.5, 2), (0.5,), (0.4,), "from 0.5 to 2"),
    ],
)
def test_what_lies_in_a_range(allowed, inside, outside, words):
    assert str(allowed) == words
    assert all(value in allowed for value in inside)
    assert not any(value in allowed for value in outside)


@dataclass(frozen=True)
class Inner:
    share: Share = 0.5


@dataclass(frozen=True)
class Outer:
    count: Count = 1
    rate: Positive | None = None
    pair: tuple[Whole, Whole] = (0, 0)
    sizes: dict[Literal["a", "b"], Count] = field(default_factory=dict)
    seed: Seed = 0
    inner: Inner = Inner()
    name: str = ""

    def __post_init__(self):
        fields.check_values(self, "outer")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "outer.count must be at least 1, found 0"),
        ({"count": 2**31}, "outer.count must be at most 2147483647, found 2147483648"),
        ({"count": 10**5000}, "outer.count must be at most 2147483647, found a number of 16610 bits"),
        ({"count": True}, "outer.count: expected a whole number, at least 1, found True (bool)"),
        ({"count": 1.0}, "outer.count: expected a whole number, at least 1, found 1.0 (float)"),
        ({"count": None}, "outer.count: expected a whole number, at least 1, found None (NoneType)"),
        ({"count": [1]}, "outer.count: expected a whole number, at least 1, found [1] (list)"),
        ({"rate": float("1e400")}, "outer.rate must be finite and above 0, found inf"),
        ({"rate": 10**400}, "outer.rate must be finite and above 0, found a number of 1329 bits"),
        ({"rate": 1e39}, "outer.rate must be finite in float32 and above 0, found 1e+39"),
        ({"rate": 1e-50}, "outer.rate must be above 0 in float32, too, found 1e-50"),
        ({"rate": math.nan}, "outer.rate must be finite and above 0, found nan"),
        ({"rate": "1e-4"}, "outer.rate: expected a number, above 0, found '1e-4' (str)"),
        ({"pair": (0, -1)}, "outer.pair[1] must be at least 0, found -1"),
        ({"pair": (0,)}, "outer.pair: expected 2 values, found (0,) (tuple)"),
        ({"sizes": {"a": 0}}, "outer.sizes.a must be at least 1, found 0"),
        ({"sizes": {"c": 1}}, "unknown key of outer.sizes 'c'. Known: a, b."),
        ({"seed": 2**70}, f"outer.seed must be from 0 to 4294967295, found {2**70}"),
        ({"inner": {"share": 2}}, "outer.inner.share must be from 0 to 1, found 2"),
        ({"inner": 3}, "outer.inner: expected a group of fields, found 3 (int)"),
        ({"name": 5}, "outer.name: expected text, found 5 (int)"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_field_value_and_expectation(values, message):
    with pytest.raises(Owl2Error) as caught:
        fields.from_dict(Outer, values, "outer")
    assert str(caught.value) == message


def test_a_dataclass_built_in_code_is_checked_too():
    with pytest.raises(Owl2Error, match=r"outer\.count must be at least 1, found -3"):
        Outer(count=-3)
    with pytest.raises(Owl2Error, match=r"outer\.rate must be above 0, found 0"):
        Outer(rate=0.0)


def test_words_of_the_command_line():
    assert fields.read_number(Count, "7", "--rows") == 7
    assert fields.read_number(AnyNumber, "-1.5", "--penalty") == -1.5
    for text, message in [
        ("0", "--rows must be at least 1, found 0"),
        ("x", "--rows: expected a whole number, at least 1, found 'x'"),
        ("1.5", "--rows: expected a whole number, at least 1, found '1.5'"),
    ]:
        with pytest.raises(Owl2Error) as caught:
            fields.read_number(Count, text, "--rows")
        assert str(caught.value) == message


def takes(path: str, *, frames: Annotated[int, at_least(0)] = 0, names: tuple[str, ...] | None = None):
    return path, frames, names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": 5}, "here.path: expected text, found 5 (int)"),
        ({"path": "a", "frames": -1}, "here.frames must be at least 0, found -1"),
        ({"path": "a", "names": "b"}, "here.names: expected a sequence, found 'b' (str)"),
        ({"frames": 1}, "here: required path not given; known: path, frames, names"),
        ({"pth": "a"}, "unknown field of here 'pth'; did you mean 'path'? Known: frames, names, path."),
    ],
)
def test_arguments_are_checked_before_a_function_is_called(arguments, message):
    with pytest.raises(Owl2Error) as caught:
        fields.check_arguments(takes, arguments, "here")
    assert str(caught.value) == message
