"""The configuration of a run: a config file, overrides, and the dataclasses that own the fields.

A config file defines `get_config()`, or `get_config(argument)`, and returns a
locked `ml_collections.ConfigDict` that sets only what differs from the
defaults. Everything is checked here, before a device is touched.
"""

from __future__ import annotations

import ast
import inspect
import runpy
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from owl2_jax.core import fields
from owl2_jax.core.axes import MeshAxis
from owl2_jax.core.errors import Owl2Error, nearest, shortened, unknown_name
from owl2_jax.core.json_files import Json
from owl2_jax.core.paths import refuse_url
from owl2_jax.core.ranges import at_least
from owl2_jax.core.recipes import find_recipe, near_recipes
from owl2_jax.core.texts import Name
from owl2_jax.data.config import DataConfig
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.presets import preset
from owl2_jax.training.config import EvaluatorConfig, HeldoutConfig, TrainConfig


@dataclass(frozen=True)
class RunConfig:
    """Everything a training run is made of.

    Attributes:
      model: sizes and numerical choices; "preset" names some.
      data: what the model is fed.
      train: length, groups of parameters, optimiser, saving.
      mesh: sizes of the mesh axes ("data", "fsdp", "tensor", "dcn"); -1 once
        for "what is left"; never 0.
      heldout: data to measure the loss on beside the steps.
      evaluators: benchmarks to answer beside the steps.
    """

    model: Owl2Config
    data: DataConfig
    train: TrainConfig
    mesh: dict[MeshAxis, Annotated[int, at_least(-1)]] = field(default_factory=lambda: {"data": -1})
    heldout: HeldoutConfig | None = None
    evaluators: tuple[EvaluatorConfig, ...] = ()

    def __post_init__(self) -> None:
        fields.check_values(self, "")
        check_run(self)

    def to_dict(self) -> dict[str, Any]:
        """All settings, defaults included, as JSON types; `from_dict` reads them."""
        return fields.to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Raises `Owl2Error` for unknown names, wrong types and values that do not fit together.

        `values["model"]` may name a "preset"; its other fields then override the preset's.
        """
        fields.require_group(values, "config")
        values = dict(values)
        if "model" not in values:
            raise Owl2Error('config: required model not given; for example {"preset": "owl2_tiny"}')
        values["model"] = _model_values(values["model"])
        return fields.from_dict(cls, _moved(values))


def _moved(values: dict[str, Any]) -> dict[str, Any]:
    """`values` without `train.max_targets`, which older versions have beside `data.max_targets`.

    Raises:
      Owl2Error: the two differ.
    """
    train, data = values.get("train"), values.get("data")
    if not isinstance(train, Mapping) or not isinstance(data, Mapping) or "max_targets" not in train:
        return values
    train, data = dict(train), dict(data)
    old = train.pop("max_targets")
    if data.setdefault("max_targets", old) != old:
        raise Owl2Error(
            f"train.max_targets {fields.shown(old)} is the older name of data.max_targets, which is "
            f"{fields.shown(data['max_targets'])}; leave the older out"
        )
    return {**values, "train": train, "data": data}


def check_run(config: RunConfig) -> None:
    """Checks what no room can check alone. Raises `Owl2Error` with the arithmetic."""
    model, data, train = config.model, config.data, config.train
    for axis, size in config.mesh.items():
        if size == 0:
            raise Owl2Error(f"mesh.{axis} must be at least 1, or -1 for the rest, found 0")
    rest = [axis for axis, size in config.mesh.items() if size == -1]
    if len(rest) > 1:
        raise Owl2Error(f"mesh.{' and mesh.'.join(rest)} are both -1; only one can take the rest")
    if data.row_length > model.decoder.max_length:
        raise Owl2Error(
            f"data.row_length {data.row_length} is more than model.decoder.max_length "
            f"{model.decoder.max_length}"
        )
    if data.images_per_row and model.tokens_per_image >= data.row_length:
        raise Owl2Error(
            f"an image takes {model.tokens_per_image} tokens (num_queries + 1), data.row_length is "
            f"{data.row_length}: no text would fit beside it"
        )
    if data.shards % train.accumulate_steps:
        raise Owl2Error(
            f"train.accumulate_steps {train.accumulate_steps} does not divide data.shards {data.shards}; "
            "make shards a multiple of it"
        )


def todays_names(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A saved config with what older versions called otherwise under the names of today.

    One that today's rules refuse stays as it is, for whoever compares it to say what differs.
    """
    try:
        return RunConfig.from_dict(_with_two_local_steps(values)).to_dict()
    except Owl2Error:
        return values


def _with_two_local_steps(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """`values` with at least two for `train.local_checkpoints.keep`, which was 1 unless it was set."""
    train = values.get("train")
    local = train.get("local_checkpoints") if isinstance(train, Mapping) else None
    if not isinstance(local, Mapping) or local.get("keep") != 1:
        return values
    return {**values, "train": {**train, "local_checkpoints": {**local, "keep": 2}}}


def load_config(location: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads "FILE.py", or the name of a recipe, each with or without ":ARGUMENT"; applies "a.b.c=value".

    Raises:
      Owl2Error: a missing file, one without `get_config`, or a bad field.
    """
    return RunConfig.from_dict(apply_overrides(read_config_file(location), overrides))


def read_config_file(location: str) -> dict[str, Any]:
    """The plain dict of a config file, "FILE.py" or a recipe's name. Raises `Owl2Error`."""
    path, argument = config_path(location)
    if path.suffix != ".py":
        raise Owl2Error(f"config file {path} is no Python file; expected FILE.py with get_config()")
    sys.path.insert(0, str(path.parent.absolute()))  # config files may share a module that lies beside them
    before = set(sys.modules)
    try:
        return _call_config(path, argument)
    except Owl2Error:
        raise
    except Exception as error:
        raise Owl2Error(
            f"{_place(path, error)}: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    finally:
        sys.path.pop(0)
        # Another folder's config may share a module of the same name.
        for module in set(sys.modules) - before:
            if Path(getattr(sys.modules[module], "__file__", None) or "/").parent == path.parent.absolute():
                del sys.modules[module]


def config_path(location: str) -> tuple[Path, str]:
    """File and argument of "FILE.py:ARGUMENT", or of the name of a recipe, as "instruct_7b:image_size=336".

    Raises:
      Owl2Error: there is neither, with the nearest names.
    """
    refuse_url(location, "config file")
    name, _, argument = location.partition(":")
    path = find_recipe(name) or Path(name)
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        siblings = [str(p) for p in sorted(folder.glob("*.py"))] if folder.is_dir() else []
        close = nearest(str(path), siblings) or near_recipes(name) or siblings[:3]
        hint = f"; there is {', '.join(close)}" if close else ""
        wrong = "is a folder, expected FILE.py" if path.is_dir() else "does not exist"
        raise Owl2Error(f"config file {path} {wrong}{hint}")
    return path, argument


def _call_config(path: Path, argument: str) -> dict[str, Any]:
    get_config = runpy.run_path(str(path)).get("get_config")
    if get_config is None:
        raise Owl2Error(f"{path} defines no get_config()")
    takes_argument = bool(inspect.signature(get_config).parameters)
    if argument and not takes_argument:
        raise Owl2Error(f"{path} takes no argument, found {argument!r}")
    config = get_config(argument) if takes_argument else get_config()
    config = config.to_dict() if hasattr(config, "to_dict") else config
    if not isinstance(config, Mapping):
        raise Owl2Error(
            f"{path}: get_config() should return a ConfigDict or a dict, found {fields.shown(config)}"
        )
    return dict(config)


def _place(path: Path, error: Exception) -> str:
    """The file and line of a config where an exception came from."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{frame.filename}, line {frame.lineno}" for frame in frames if frame.filename == str(path)]
    return lines[-1] if lines else str(path)


def parse_argument(argument: str, **defaults: Any) -> dict[str, Any]:
    """Parses a config argument "name=value,name=value" against typed defaults.

    Raises:
      UnknownNameError: a name without default, with the nearest names.
      Owl2Error: a value that is not of the default's type.
    """
    values = dict(defaults)
    for item in filter(None, argument.split(",")):
        name, equals, text = item.partition("=")
        if name not in defaults:
            raise unknown_name("config argument", name, defaults)
        if not equals and isinstance(defaults[name], bool):
            text = "True"
        value = _literal(text)
        expected = type(defaults[name])
        if expected is float and type(value) is int:
            value = float(value)
        if expected is str:  # "5" is a name here, too
            value = value if isinstance(value, str) else text
        if type(value) is not expected:
            raise Owl2Error(f"config argument {name}: expected {_KINDS[expected]}, found {text!r}")
        values[name] = value
    return values


_KINDS = {int: "a whole number", float: "a number", bool: "True or False"}


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Sets dotted fields, "train.total_steps=100"; values are Python literals or plain text.

    A member of a list goes by its number or its name: "train.groups.vision.trainable=False".

    Raises:
      Owl2Error: an override without "=", one that reaches into a field that is no group, or a
        member that a list does not have.
    """
    result = _copy(values)
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise Owl2Error(
                f"override {shortened(override)!r} has no value; write NAME=VALUE, as train.total_steps=100"
            )
        *parents, last = name.split(".")
        node: Json = result
        for place, parent in enumerate(parents):
            if isinstance(node, dict) and node.get(parent) is None:
                node[parent] = {}
            node = node[_key(node, parent, ".".join(parents[:place]))]
            if not isinstance(node, dict | list):
                raise Owl2Error(
                    f"override {shortened(override)!r}: {shortened(parent)!r} is no group of fields"
                )
        node[_key(node, last, ".".join(parents))] = _literal(text)
    return result


def _key(node: dict[str, Any] | list[Any], name: str, where: str) -> str | int:
    """What `name` means in a group of fields or in a list. Raises `Owl2Error` for no member."""
    if isinstance(node, dict):
        return name
    names = [member.get("name") if isinstance(member, Mapping) else None for member in node]
    names = [name if isinstance(name, str) else None for name in names]
    if name in names:
        return names.index(name)
    if name in map(str, range(len(node))):
        return int(name)
    raise unknown_name(f"member of {where}", name, [str(name or place) for place, name in enumerate(names)])


def _model_values(values: object) -> dict[str, Any]:
    fields.require_group(values, "model")
    values = dict(values)
    if "preset" not in values:
        return values
    fields.check_value(Name, values["preset"], "model.preset")
    return _merge(preset(values.pop("preset")).to_dict(), values)


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _literal(text: str) -> Json:
    if any(part[:1] == "0" and part[1:].isdigit() for part in text.split(",")):
        return text  # "1,000" is no (1, 0)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text  # TypeError: a list as a key; the last two: brackets nested too deep


def _copy(values: Json) -> Json:
    if isinstance(values, Mapping):
        return {key: _copy(value) for key, value in values.items()}
    return [_copy(value) for value in values] if isinstance(values, list | tuple) else values
