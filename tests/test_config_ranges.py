"""Every number and text that a user can set has a rule, and what breaks it is refused by its name."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import pytest

import owl2_jax
from owl2_jax.config import RunConfig, load_config
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import type_hints
from owl2_jax.core.ranges import at_least, range_of
from owl2_jax.core.texts import text_of
from owl2_jax.data.sources.registry import SOURCES
from owl2_jax.data_tools.prepare.settings import PrepareConfig, PrepareSet
from owl2_jax.inference.engine_config import EngineConfig
from owl2_jax.sampling.params import Sampling
from owl2_jax.serving.settings import ServeConfig
from owl2_jax.sweeps.claims import Claim
from owl2_jax.sweeps.grid import SweepConfig

CONFIGS = (RunConfig, PrepareConfig, SweepConfig, ServeConfig, Sampling, EngineConfig)
TINY = "configs/tiny/stage2.py"
# Files whose dataclasses are settings that a user writes.
FILES = ("config", "settings", "augment", "sampling.params", "engine_config", "local_config")


def leaves(hint: Any, where: str) -> Iterator[tuple[str, Any]]:
    """(where, hint) of all numbers and texts inside of optional values, tuples, dicts and dataclasses."""
    if typing.get_origin(hint) is Annotated or hint in (int, float, str):
        yield where, hint
    elif dataclasses.is_dataclass(hint):
        for name, inner in type_hints(hint).items():
            yield from leaves(inner, f"{where}.{name}")
    else:
        for inner in typing.get_args(hint):
            yield from leaves(inner, where)


def has_rule(hint: Any) -> bool:
    kind, *extras = typing.get_args(hint) or (hint,)
    return (text_of if kind is str else range_of)(tuple(extras)) is not None


def groups(hint: Any) -> Iterator[type]:
    """All dataclasses of a type."""
    inner = typing.get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
        inner = type_hints(hint).values()
    for one in inner:
        yield from groups(one)


GROUPS = list(dict.fromkeys(group for config in CONFIGS for group in groups(config)))


@pytest.mark.parametrize("config", CONFIGS)
def test_every_number_and_text_of_a_config_has_a_rule(config):
    found = dict(leaves(config, config.__name__))
    assert found
    assert [where for where, hint in found.items() if not has_rule(hint)] == []


def test_the_walk_finds_what_has_no_rule():
    @dataclasses.dataclass
    class Bare:
        count: Annotated[int, at_least(1)] = 1
        pair: Any = None

    Bare.__annotations__ |= {"pair": dict[str, tuple[int, float] | None]}
    assert [where for where, hint in leaves(Bare, "bare") if not has_rule(hint)] == ["bare.pair"] * 3


def test_every_dataclass_of_the_files_of_settings_is_walked():
    found, files = set(), set()
    for module in pkgutil.walk_packages(owl2_jax.__path__, "owl2_jax."):
        if file := next((name for name in FILES if module.name.endswith(f".{name}")), None):
            files.add(file)
            members = vars(importlib.import_module(module.name)).values()
            own = [m for m in members if isinstance(m, type) and m.__module__ == module.name]
            # Settings are plain and frozen; arrays of the device have `replace` of their own.
            found |= {m for m in own if dataclasses.is_dataclass(m) and not hasattr(m, "replace")}
    assert files == set(FILES)
    assert found <= set(GROUPS)


@pytest.mark.parametrize("kind", SOURCES)
def test_every_number_and_text_of_a_source_has_a_rule(kind):
    hints = typing.get_type_hints(SOURCES[kind].__init__, include_extras=True)
    found = [pair for name, hint in hints.items() for pair in leaves(hint, name)]
    assert found
    assert [where for where, hint in found if not has_rule(hint)] == []


FULL = {
    "model.lora": {"rank": 2},
    "data.augment": {},
    "heldout": {"datasets": {"held": {"kind": "embedded", "options": {"dataset": "facts"}}}},
    "evaluators": [{"benchmark": "embedded_vqa"}],
    "train.best": {},
    "train.local_checkpoints": {"folder": "saves"},
    "train.wandb": {"project": "p"},
    "train.groups.0.schedule": {},
}


def instances(value: Any) -> Iterator[Any]:
    """All dataclass instances inside of a value."""
    if dataclasses.is_dataclass(value):
        yield value
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    members = value.values() if isinstance(value, dict) else value
    for inner in members if isinstance(value, dict | list | tuple) else ():
        yield from instances(inner)


def test_every_group_is_checked_when_it_is_built_in_code():
    overrides = [f"{name}={value!r}" for name, value in FULL.items()]
    prepare = PrepareConfig({"a": PrepareSet("embedded", {"dataset": "facts"})})
    claim = Claim("size-2", "size-1", "higher", ("loss",), "more")
    sweep = SweepConfig("a.py", {"size": {"1": ("train.seed=1",)}}, claims={"more": claim})
    values = [load_config(TINY, overrides), prepare, sweep, ServeConfig(), Sampling(), EngineConfig()]
    found = {type(one): one for value in values for one in instances(value)}
    assert set(found) == set(GROUPS)
    for group, one in found.items():
        for name, hint in type_hints(group).items():
            if list(leaves(hint, name)):
                with pytest.raises(Owl2Error, match=name):
                    dataclasses.replace(one, **{name: object()})


@pytest.mark.parametrize("group", GROUPS)
def test_what_0_means_is_documented_where_0_is_allowed(group):
    documented = re.split(r"\n(?=      [a-z][a-z0-9_, ]*: )", group.__doc__ or "")
    for name, hint in type_hints(group).items():
        own = [] if list(groups(hint)) else [leaf for _, leaf in leaves(hint, name)]
        allowed = filter(None, (range_of(typing.get_args(leaf)[1:]) for leaf in own))
        if any(0 in one for one in allowed):
            words = [text for text in documented if re.match(rf"\s+([a-z0-9_]+, )*{name}[,:]", text)]
            assert words, f"{group.__name__}.{name} is not documented"
            assert re.search(r"\b0\b|seed|share|probability", words[0]), (group.__name__, name)
