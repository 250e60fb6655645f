"""Mutated values, types, keys and overrides of config files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

from owl2_jax.config import RunConfig, apply_overrides, read_config_file
from owl2_jax.core.errors import Owl2Error

FILES = ("configs/tiny/stage1.py", "configs/tiny/stage2.py", "configs/lora_7b.py", "configs/instruct_7b.py")
# What people write by mistake, and what a damaged file can hold.
VALUES = (
    0, -1, 1, 2, 7, 2**31, 2**63, 2**70, -(2**31), 10**400, 0.0, -0.1, 0.5, 1.0, 1e-9, 1e30,
    float("inf"), float("nan"), None, True, False, "", "x", "full", "bfloat16", "1e-4", "None", " ", "\u2028",
    [], [1], [0, 1], ["a"], (), (1, 2), {}, {"a": 1}, {3: 4}, {"name": "x", "pattern": ".*"},
    {"kind": "llava", "options": {"path": 5}}, b"x", object,
)  # fmt: skip


@cache
def _base(location: str) -> dict[str, Any]:
    return RunConfig.from_dict(read_config_file(location)).to_dict()


def _nodes(value: Any) -> list[tuple[Any, Any]]:
    """All (group or list, key) of nested values."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found = [(value, key) for key in keys]
    return found + [pair for key in keys for pair in _nodes(value[key])]


def _mutate(values: dict[str, Any], rng: np.random.Generator) -> list[str]:
    """Changes `values` in place; returns overrides that go with them."""
    pick = lambda options: options[int(rng.integers(len(options)))]
    overrides = []
    for _ in range(int(rng.integers(1, 4))):
        group, key = pick(_nodes(values))
        change = int(rng.integers(6))
        if change <= 1:
            group[key] = copy.copy(pick(VALUES))
        elif change == 2 and isinstance(group[key], int | float) and not isinstance(group[key], bool):
            group[key] = pick((-group[key], group[key] * 3, group[key] + 1, group[key] / 7, str(group[key])))
        elif change == 3 and isinstance(group, dict):
            group[f"{key}{pick(('', 's', '_', ' ', '.x'))}"[:: pick((1, -1))]] = group.pop(key)
        elif change == 4:
            del group[key]
        else:
            words = ("train", "data", "model", "mesh", str(key), "0", "", "groups", "datasets")
            name = ".".join(pick(words) for _ in range(3))
            overrides.append(f"{name}{pick(('=', '==', ''))}{pick(VALUES)}")
        if not _nodes(values):
            break
    return overrides


def _check(values: dict[str, Any], overrides: list[str]) -> None:
    try:
        config = RunConfig.from_dict(apply_overrides(values, overrides))
    except Owl2Error as error:
        words = str(error)
    else:
        words = ""
    if words:
        assert "\n" not in words, f"an error of several lines: {words}"
        return
    # What was accepted is what was written: nothing is converted to something else on the way.
    again = RunConfig.from_dict(config.to_dict())
    assert again == config
    _holds(apply_overrides(values, overrides), config.to_dict())


def _holds(written: Any, read: Any, where: str = "") -> None:
    """Asserts that every value that was written is in what was read."""
    if isinstance(written, dict):
        for key, value in written.items():
            if (where, key) != ("model", "preset"):
                _holds(value, read[str(key)], f"{where}.{key}".strip("."))
    elif isinstance(written, list | tuple):
        assert len(written) == len(read), where
        for number, value in enumerate(written):
            _holds(value, read[number], f"{where}[{number}]")
    else:
        assert type(written) is type(read) or (type(written), type(read)) == (int, float), where
        assert written == read, where


def cases(rng: np.random.Generator) -> Iterator[Callable[[], None]]:
    while True:
        values = copy.deepcopy(_base(FILES[int(rng.integers(len(FILES)))]))
        overrides = _mutate(values, rng)
        yield lambda values=values, overrides=overrides: _check(values, overrides)
