"""Changes to parsed JSON, for the fuzzers of settings files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from owl2_jax.core.errors import Owl2Error

JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 4, 8, 64, 10**400, 1 << 40, 0.0, 0.5, 1.0, 1e-5, 10000.0, 500000.0,
    float("nan"), float("inf"), -1.5, "", "4096", "none", "default", "nan", [], [1], [None], {}, {"a": 1},
    [[[[[[[[[[]]]]]]]]]], "\ud800", "a\nb",
)  # fmt: skip


def pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


def misspelt(rng: np.random.Generator, name: str) -> str:
    """The name with one letter gone, or one more."""
    place = int(rng.integers(len(name)))
    return name[:place] + pick(rng, ["", "_", "x"]) + name[place + 1 :]


def mutate(rng: np.random.Generator, values: dict, names: Sequence[str], likely: dict[str, Sequence]) -> None:
    """Changes, adds, drops or renames one entry.

    Args:
      names: keys that may be added.
      likely: values to try for a key besides `JUNK`.
    """
    kind = rng.integers(10)
    name = pick(rng, [*values, *names]) if values else pick(rng, names)
    if kind == 0:
        values.pop(name, None)
    elif kind == 1 and name in values:
        values[misspelt(rng, name)] = values.pop(name)
    elif kind == 2:
        values[f"setting_{rng.integers(100)}"] = pick(rng, JUNK)
    else:
        values[name] = pick(rng, [*likely.get(name, ()), *likely.get(name, ()), *JUNK])


def text_of(rng: np.random.Generator, values: Any) -> bytes:
    """The JSON of a value; now and then with a byte-order mark, or damaged."""
    text = json.dumps(values).encode()
    kind = rng.integers(20)
    if kind == 0:
        return b"\xef\xbb\xbf" + text
    if kind == 1:
        place = int(rng.integers(len(text)))
        return text[:place] + bytes([int(rng.integers(256))]) + text[place + 1 :]
    if kind == 2:
        return text[: int(rng.integers(len(text)))]
    return text


def attempt(read: Callable[[], Any]) -> tuple[Any, str | None]:
    """(what a reader gives, None), or (None, its refusal), which must be one line."""
    try:
        return read(), None
    except Owl2Error as error:
        refusal = str(error)
    assert "\n" not in refusal, refusal
    return None, refusal
