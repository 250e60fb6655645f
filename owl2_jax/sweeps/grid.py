"""A grid of changes of one config: which points it has, what each is called and what it changes.

A sweep file defines `get_config()`, or `get_config(argument)`, like any config
file, and returns the fields of `SweepConfig` as a dict (a `ConfigDict` would
sort the values of the axes).
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from owl2_jax.config import RunConfig, apply_overrides, config_path, read_config_file
from owl2_jax.core import fields
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.ranges import Seed, Whole
from owl2_jax.core.texts import AnyText, BucketPath, FilePath, Name
from owl2_jax.sweeps.claims import Claim, check_claims

_AXIS: Final = re.compile(r"[a-z][a-z0-9_]*")
_LABEL: Final = re.compile(r"[A-Za-z0-9.]+")  # part of a folder's name
BASE_POINT: Final = "base"


@dataclass(frozen=True)
class SweepConfig:
    """A study: one base config and what is changed in it.

    Attributes:
      base: config file of a training run, "FILE.py" or "FILE.py:ARGUMENT";
        the path counts from the sweep file's folder.
      axes: {axis: {label of a value: changed fields, each "FIELD=VALUE"}}. The
        first value of an axis is the one that the others are compared with.
      design: "grid" takes every combination of values; "one_at_a_time" takes
        the first values of all axes and changes one of them at a time.
      overrides: changed fields of all points.
      seeds: of the runs of each point; sets `train.seed` and `data.seed`. A
        seed is the same order of the data and the same start for every point.
      start_from: checkpoint that every run starts from; where a point has
        another image size, number of queries or module, from a resized copy
        (`owl2 convert resize`). None leaves what the base config says; a point
        that sets `train.start_from` has its own.
      benchmarks: names for `owl2 evaluate`.
      data_root: folder of the benchmarks' published files.
      max_questions: only the first so many of each benchmark (0: all).
      topology: slice of TPU chips that the runs will have, for the memory per
        chip (`owl2 fit`); None for this machine.
      claims: {name: a question to the sweep}, answered by `owl2 sweep
        --collect` in claims.md and claims.csv.
    """

    base: FilePath
    axes: dict[Name, dict[Name, tuple[AnyText, ...]]]
    design: Literal["grid", "one_at_a_time"] = "grid"
    overrides: tuple[AnyText, ...] = ()
    seeds: tuple[Seed, ...] = (0,)
    start_from: BucketPath | None = None
    benchmarks: tuple[Name, ...] = ()
    data_root: BucketPath = "data"
    max_questions: Whole = 0
    topology: Name | None = None
    claims: dict[Name, Claim] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fields.check_values(self, "sweep")
        if not self.axes or not all(self.axes.values()):
            raise Owl2Error("sweep: axes is empty, or an axis has no value; give each at least one")
        for axis, values in self.axes.items():
            _check_name("axis", axis, _AXIS)
            for label in values:
                _check_name(f"value of axis {axis!r}", label, _LABEL)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise Owl2Error(f"sweep: seeds {list(self.seeds)} are none, or one is there twice")


def _check_name(what: str, name: str, allowed: re.Pattern[str]) -> None:
    if not allowed.fullmatch(name):
        raise Owl2Error(f"sweep: {what} {name!r} becomes part of a folder's name; expected {allowed.pattern}")


@dataclass(frozen=True)
class Point:
    """One setting of all axes.

    Attributes:
      name: stable, and the name of its folder.
      labels: {axis: label of its value}.
      overrides: changed fields of the base config, "FIELD=VALUE".
    """

    name: str
    labels: dict[str, str]
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A point with a seed: one training run and its evaluation."""

    point: Point
    seed: int

    @property
    def name(self) -> str:
        """Its folder below `points`."""
        return f"{self.point.name}/seed-{self.seed}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """Fields of the point and both seeds, as on the command line."""
        return (*self.point.overrides, f"train.seed={self.seed}", f"data.seed={self.seed}")


@dataclass(frozen=True)
class Sweep:
    """A sweep that was read and checked.

    Attributes:
      name: of its file.
      config: what the file says.
      base: location of the base config, as `owl2 train --config` takes it.
      location: where the sweep was read from, with its argument.
      compared_with: name of the point that the others are compared with; None
        for that of the first values of all axes.
    """

    name: str
    config: SweepConfig
    base: str
    location: str
    base_values: dict[str, Any] = field(repr=False)
    compared_with: str | None = None

    @cached_property
    def points(self) -> list[Point]:
        """All combinations of the axes' values, or one change at a time (`design`); the base comes first."""
        return list(_points(self.config))

    @property
    def base_point(self) -> Point:
        """The point that the others are compared with."""
        if self.compared_with is None:
            return self.points[0]
        return self.find_point(self.compared_with)

    @cached_property
    def runs(self) -> list[Run]:
        """Every point with the first seed, then with the next, so that a first table is there early."""
        return [Run(point, seed) for seed in self.config.seeds for point in self.points]

    def run_config(self, run: Run) -> RunConfig:
        """The config of a run, where it starts from left as in the base.

        Raises:
          Owl2Error: a field that does not exist or a value that does not fit,
            with the name of the point.
        """
        overrides = (*self.config.overrides, *run.overrides)
        try:
            return RunConfig.from_dict(apply_overrides(self.base_values, overrides))
        except Owl2Error as error:
            raise Owl2Error(f"point {run.point.name} ({', '.join(run.point.overrides)}): {error}") from None

    def start_of(self, run: Run) -> str | None:
        """The checkpoint that a run starts from: its point's own `train.start_from`, or the sweep's.

        None where neither names one; the base config then has its way.
        """
        own = any(text.partition("=")[0] == "train.start_from" for text in run.point.overrides)
        return self.run_config(run).train.start_from if own else self.config.start_from

    def find(self, name: str) -> Run:
        """The run called "POINT/seed-N". Raises `UnknownNameError`."""
        known = {run.name: run for run in self.runs}
        if name not in known:
            raise unknown_name("run of this sweep", name, known)
        return known[name]

    def chosen(self, names: Sequence[str]) -> list[Run]:
        """Runs by "POINT/seed-N", and then all of each "POINT"; each once.

        Runs come in the order given, those of points with the first seed of each first, as in `runs`.

        Raises:
          UnknownNameError: neither a run nor a point is called so.
        """
        named = [self.find_point(name).name for name in names if "/" not in name]
        found = [self.find(name) for name in names if "/" in name]
        found += [Run(self.find_point(name), seed) for seed in self.config.seeds for name in named]
        return list({run.name: run for run in found}.values())

    def find_point(self, name: str) -> Point:
        """The point of that name. Raises `UnknownNameError`."""
        known = {point.name: point for point in self.points}
        if name not in known:
            raise unknown_name("point of this sweep", name, known)
        return known[name]


def load_sweep(location: str, overrides: Sequence[str] = (), compared_with: str | None = None) -> Sweep:
    """Reads "FILE.py" or a recipe's name, with or without ":ARGUMENT"; `overrides` are of every point.

    Args:
      compared_with: as in `Sweep`.

    Raises:
      UnknownNameError: no point is called `compared_with`.
      Owl2Error: a missing file, a bad field of the sweep, or a bad point.
    """
    config = fields.from_dict(SweepConfig, read_config_file(location), "sweep")
    config = dataclasses.replace(config, overrides=(*config.overrides, *overrides))
    path, _ = config_path(location)
    file, colon, argument = config.base.partition(":")
    base = f"{_shortest(path.parent / file)}{colon}{argument}"
    sweep = Sweep(path.stem, config, base, location, read_config_file(base), compared_with)
    if compared_with is not None:
        sweep.find_point(compared_with)
    for point in sweep.points:
        sweep.run_config(Run(point, config.seeds[0]))
    check_claims(config.claims, [point.name for point in sweep.points], config.benchmarks)
    return sweep


def _shortest(path: Path) -> Path:
    """Relative to the working directory where it lies below, so that other machines find it, too."""
    path, here = path.resolve(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _points(config: SweepConfig) -> Iterator[Point]:
    if config.design == "grid":
        for labels in itertools.product(*config.axes.values()):
            chosen = dict(zip(config.axes, labels, strict=True))
            yield _point("_".join(f"{axis}-{label}" for axis, label in chosen.items()), chosen, config)
        return
    first = {axis: next(iter(values)) for axis, values in config.axes.items()}
    yield _point(BASE_POINT, first, config)
    for axis, values in config.axes.items():
        for label in list(values)[1:]:
            yield _point(f"{axis}-{label}", {**first, axis: label}, config)


def _point(name: str, labels: dict[str, str], config: SweepConfig) -> Point:
    overrides: list[str] = []
    owner: dict[str, str] = {}
    for axis, label in labels.items():
        for override in config.axes[axis][label]:
            changed = override.partition("=")[0]
            # The later one would silently win.
            if owner.setdefault(changed, axis) != axis:
                raise Owl2Error(f"point {name}: axes {owner[changed]!r} and {axis!r} both set {changed}")
            overrides.append(override)
    return Point(name, labels, tuple(overrides))
