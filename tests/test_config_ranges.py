"""Every number that a user can set has a range."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import pytest

from owl2_jax.cli.main import COMMANDS
from owl2_jax.config import RunConfig, load_config
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.ranges import range_of
from owl2_jax.data.prepare.settings import PrepareConfig
from owl2_jax.data.sources import SOURCES
from owl2_jax.inference.sampling import Sampling
from owl2_jax.inference.sizes import EngineConfig
from owl2_jax.serving.settings import ServeConfig
from owl2_jax.sweeps.grid import SweepConfig

CONFIGS = (RunConfig, PrepareConfig, SweepConfig, ServeConfig, Sampling, EngineConfig)


def numbers(hint: Any, where: str) -> Iterator[tuple[str, Any]]:
    """(where, hint) of all numbers of a type, inside of optional values, tuples, dicts and dataclasses."""
    if typing.get_origin(hint) is Annotated or hint in (int, float):
        yield where, hint
    elif dataclasses.is_dataclass(hint):
        for name, inner in typing.get_type_hints(hint, include_extras=True).items():
            yield from numbers(inner, f"{where}.{name}")
    else:
        for inner in typing.get_args(hint):
            yield from numbers(inner, where)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_number_of_a_config_has_a_range(config):
    found = dict(numbers(config, config.__name__))
    assert found
    assert [where for where, hint in found.items() if range_of(typing.get_args(hint)[1:]) is None] == []


@pytest.mark.parametrize("kind", SOURCES)
def test_every_number_of_a_source_has_a_range(kind):
    hints = typing.get_type_hints(SOURCES[kind].__init__, include_extras=True)
    found = [pair for name, hint in hints.items() for pair in numbers(hint, name)]
    assert [where for where, hint in found if range_of(typing.get_args(hint)[1:]) is None] == []


def arguments_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for chosen in action.choices.values():
                yield from arguments_of(chosen)
        else:
            yield action


@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_of_a_command_has_a_range(command):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"owl2_jax.cli.{command}").add_arguments(parser)
    assert [a.option_strings for a in arguments_of(parser) if a.type in (int, float)] == []


TINY = "configs/tiny/stage2.py"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.optimizer.clip_norm=-1", "train.optimizer.clip_norm must be above 0, found -1"),
        ("train.optimizer.clip_norm=0", "train.optimizer.clip_norm must be above 0, found 0"),
        ("train.optimizer.b1=2", "train.optimizer.b1 must be at least 0 and below 1, found 2"),
        ("train.optimizer.b2=1.0", "train.optimizer.b2 must be at least 0 and below 1, found 1.0"),
        ("train.optimizer.eps=-1", "train.optimizer.eps must be above 0, found -1"),
        ("train.optimizer.weight_decay=-0.1", "train.optimizer.weight_decay must be at least 0, found -0.1"),
        ("train.schedule.peak_lr=1e400", "train.schedule.peak_lr must be finite and above 0, found inf"),
        ("train.watchdog_seconds=-1", "train.watchdog_seconds must be at least 0, found -1"),
        ("train.loss_chunk=-1", "train.loss_chunk must be at least 0, found -1"),
        ("train.seed=1180591620717411303424", "train.seed must be from 0 to 4294967295, found 1180"),
        ("model.vision.num_layers=0", "model.vision.num_layers must be at least 1, found 0"),
        ("model.vision.image_size=-32", "model.vision.image_size must be at least 1, found -32"),
        ("model.remat=ful", "unknown model.remat 'ful'; did you mean 'full'"),
        ("model.attention=spalsh", "unknown model.attention 'spalsh'; did you mean 'splash'"),
        ("model=3", "model: expected a group of fields, found 3"),
        ("model.preset=4", "unknown preset '4'"),
        ("train=5", "train: expected a group of fields, found 5"),
        ("train.groups=7", "train.groups: expected a sequence, found 7"),
        ("mesh.data=0", "mesh.data must be at least 1, or -1 for the rest, found 0"),
        ("mesh.data=x", "mesh.data: expected a whole number, at least -1, found 'x'"),
        ("mesh.fdsp=2", "unknown key of mesh 'fdsp'; did you mean 'fsdp'"),
        ("data.rows=null", "data.rows: expected a whole number, at least 1, found 'null'"),
        ("data.datasets=3", "data.datasets: expected a mapping, found 3"),
    ],
)
def test_a_value_of_a_run_that_cannot_be_is_refused_by_its_name(override, message):
    with pytest.raises(Owl2Error) as caught:
        load_config(TINY, [override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("path=5", "data.datasets.mine.options.path: expected text or a path, found 5 (int)"),
        ("num_frames=-1", "data.datasets.mine.options.num_frames must be at least 0, found -1"),
        ("pth=a", "unknown field of data.datasets.mine.options 'pth'; did you mean 'path'"),
    ],
)
def test_options_of_a_set_are_checked_before_it_is_opened(option, message):
    mine = {"kind": "llava", "options": {"path": "one.json"}}
    with pytest.raises(Owl2Error) as caught:
        load_config(TINY, [f"data.datasets.mine={mine!r}", f"data.datasets.mine.options.{option}"])
    assert message in str(caught.value)
