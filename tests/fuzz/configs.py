"""Mutated values, types, keys and overrides of config files and settings, and words of the command line."""

from __future__ import annotations

import argparse
import copy
import importlib
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any, get_args, get_origin

import numpy as np

from owl2_jax.cli.main import COMMANDS
from owl2_jax.config import RunConfig, apply_overrides, read_config_file
from owl2_jax.core import fields
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data_tools.prepare.settings import PrepareConfig
from owl2_jax.inference.engine_config import EngineConfig
from owl2_jax.sampling.params import Sampling
from owl2_jax.serving.settings import ServeConfig
from owl2_jax.sweeps.grid import SweepConfig
from owl2_jax.training.config import identifier

FILES = ("configs/tiny/stage1.py", "configs/tiny/stage2.py", "configs/lora_7b.py", "configs/instruct_7b.py")
# What no config file of this project sets, with the values that it may have.
OPTIONAL = {
    "data.augment": {"scale": [0.5, 1.0], "flip": 0.5},
    "heldout": {"datasets": {"held": {"kind": "embedded", "options": {"dataset": "facts"}}}},
    "evaluators": [{"benchmark": "easy_vqa", "max_questions": 3}],
    "train.best": {"metric": "heldout/loss", "mode": "min"},
    "train.wandb": {"project": "owl", "name": None},
    "train.profile_steps": [2, 3],
    "data.datasets.mine": {"kind": "llava", "options": {"path": "one.json", "num_frames": 2}},
    "data.datasets.table": {
        "kind": "parquet",
        "options": {"paths": ["a", "b"], "dataset": "t", "fields": {"answer": "a", "image": None}},
    },
}
SETTINGS: dict[type, dict[str, Any]] = {
    PrepareConfig: {"datasets": {"a": {"kind": "webdataset", "options": {"paths": "a.tar", "dataset": "a"}}}},
    SweepConfig: {"base": "a.py", "axes": {"size": {"28": ["model.vision.image_size=28"]}}, "seeds": [0, 1]},
    ServeConfig: {"model_name": "owl", "api_key": "secret"},
    Sampling: {},
    EngineConfig: {},
}
# What people write by mistake, and what a damaged file can hold.
VALUES = (
    0, -1, 1, 2, 7, 2**31, 2**32, 2**63, 2**70, -(2**31), 10**400, 10**5000, [10**5000], {"a": 10**5000},
    0.0, -0.0, -0.1, 0.5, 1.0, 1e-9, 1e30,
    1e-50, 1e39, 1 - 1e-12, float("inf"), float("-inf"), float("nan"), 1j, None, True, False, "", "x", "full",
    "bfloat16", "1e-4", "None", " ", "\u2028", "a\0b", "\ud800", "a\nb", "(", "²", "../x", "é", "9" * 5000,
    [], [1], [0, 1], ["a"], (), (1, 2), {}, {"a": 1}, {3: 4}, {3: 4, "3": 5}, {"name": "x", "pattern": ".*"},
    {"kind": "llava", "options": {"path": 5}}, {None: 1}, b"x", object, {1, 2}, [[[[[1]]]]],
)  # fmt: skip
# Words that Python's literals make trouble of.
WORDS = (
    "1e400", "-1e400", "nan", "2**70", "9" * 5000, "(" * 300, "[" * 5000, "{[]:1}", "{1:2}", "0x7f", "1_000",
    "\u0661", "²", "", " ", "-", "'", '"\\ud800"', "b'x'", "True", "null", "1,5",
    "1.0e", "--1", "1 2", "\udcff", "\x07",
)  # fmt: skip


@cache
def _base(location: str) -> dict[str, Any]:
    values = RunConfig.from_dict(read_config_file(location)).to_dict()
    return apply_overrides(values, [f"{name}={value!r}" for name, value in OPTIONAL.items()])


@cache
def _base_settings(kind: type) -> dict[str, Any]:
    return fields.to_dict(fields.from_dict(kind, SETTINGS[kind]))


@cache
def _flags() -> list[tuple[str, Any]]:
    """(name, type) of the arguments of all commands that take a number."""
    found: list[tuple[str, Any]] = []

    def visit(parser: argparse.ArgumentParser) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for chosen in action.choices.values():
                    visit(chosen)
            elif get_origin(action.type) is Annotated and get_args(action.type)[0] is not str:
                found.append((action.option_strings[-1], action.type))

    for command in COMMANDS:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"owl2_jax.cli.{command}").add_arguments(parser)
        visit(parser)
    return found


def _nodes(value: Any) -> list[tuple[Any, Any]]:
    """All (group or list, key) of nested values."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found = [(value, key) for key in keys]
    return found + [pair for key in keys for pair in _nodes(value[key])]


def _pick(options: Any, rng: np.random.Generator) -> Any:
    return options[int(rng.integers(len(options)))]


def _written(value: Any) -> str:
    """A value as a word of the command line."""
    try:
        return str(value)
    except ValueError:  # Python writes out no longer numbers
        return "9" * 6000


def _mutate(values: dict[str, Any], rng: np.random.Generator) -> list[str]:
    """Changes `values` in place; returns overrides that go with them."""
    overrides = []
    for _ in range(int(rng.integers(1, 4))):
        nodes = _nodes(values)
        if not nodes:
            break
        group, key = _pick(nodes, rng)
        change = int(rng.integers(6))
        if change <= 1:
            group[key] = copy.copy(_pick(VALUES, rng))
        elif change == 2 and type(group[key]) in (int, float) and abs(group[key]) < 2**100:
            new = (-group[key], group[key] * 3, group[key] + 1, group[key] / 7, str(group[key]))
            group[key] = _pick(new, rng)
        elif change == 3 and isinstance(group, dict):
            changed = f"{key}{_pick(('', 's', '_', ' ', '.x'), rng)}"[:: _pick((1, -1), rng)]
            group[changed] = group.pop(key)
        elif change == 4:
            del group[key]
        else:
            words = (
                "train",
                "data",
                "model",
                "mesh",
                str(key),
                "0",
                "²",
                "",
                "groups",
                "datasets",
                "9" * 5000,
            )
            name = ".".join(_pick(words, rng) for _ in range(3))
            value = _written(_pick(VALUES + WORDS, rng))
            overrides.append(f"{name}{_pick(('=', '==', ''), rng)}{value}")
    return overrides


def _refused(read: Callable[[], Any]) -> Any:
    """What `read` gives; None where it refuses in words: a line that can be printed."""
    try:
        return read()
    except Owl2Error as error:
        words = str(error)
    assert "\n" not in words, f"an error of several lines: {words}"
    assert len(words) < 2000, f"an error of {len(words)} characters: {words[:500]}"
    words.encode()
    return None


def _check_run(values: dict[str, Any], overrides: list[str]) -> None:
    config = _refused(lambda: RunConfig.from_dict(apply_overrides(values, overrides)))
    if config is not None:
        # What was accepted is what was written: nothing is converted to something else on the way.
        assert RunConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
        _holds(apply_overrides(values, overrides), config.to_dict())


def _check_settings(kind: type, values: dict[str, Any]) -> None:
    config = _refused(lambda: fields.from_dict(kind, values))
    if config is not None:
        assert fields.to_dict(fields.from_dict(kind, fields.to_dict(config))) == fields.to_dict(config)
        _holds(values, fields.to_dict(config))


def _check_flag(name: str, kind: Any, word: str) -> None:
    value = _refused(lambda: fields.read_number(kind, word, name))
    if value is not None:
        assert value == (float if "." in word or "e" in word.lower() else int)(word), word


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
        if re.fullmatch(r"(train\.)?groups\[\d+\]\.name", where):
            written = identifier(written)  # the one thing that is made fit, as its docstring says
        assert written == read, where


def cases(rng: np.random.Generator) -> Iterator[Callable[[], None]]:
    while True:
        for location in FILES:
            values = copy.deepcopy(_base(location))
            overrides = _mutate(values, rng)
            yield lambda values=values, overrides=overrides: _check_run(values, overrides)
        kind = _pick(tuple(SETTINGS), rng)
        values = copy.deepcopy(_base_settings(kind))
        _mutate(values, rng)
        yield lambda kind=kind, values=values: _check_settings(kind, values)
        (name, flag), word = _pick(_flags(), rng), _written(_pick(VALUES + WORDS, rng))
        yield lambda name=name, flag=flag, word=word: _check_flag(name, flag, word)
