"""Every field of a config with type, default, range and meaning, made of the dataclasses."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from tables import code, description, meanings, prose, summary, table

from owl2_jax.config import RunConfig
from owl2_jax.core.fields import type_hints
from owl2_jax.core.ranges import Range, range_of
from owl2_jax.core.texts import text_of
from owl2_jax.data.sources.fields import Fields
from owl2_jax.data.sources.registry import SOURCES
from owl2_jax.data_tools.prepare.settings import PrepareConfig
from owl2_jax.model.presets import PRESETS
from owl2_jax.sweeps.grid import SweepConfig

_KINDS = {int: "whole number", float: "number", bool: "True or False", str: "text", Any: "anything"}
_INT32 = 2**31 - 1  # the end of whole numbers that every field has
_HEAD = ("field", "type", "default", "range", "meaning")
_OVERRIDE = (
    "Whatever a config leaves out has its default. Any field can be set on the command line, "
    "`train.total_steps=500`; a member of a list goes by its name or number, as in "
    "`train.groups.vision.trainable=False`."
)


def config_page() -> str:
    """All groups of fields of a training run."""
    parts = ["# Fields of a training config", _OVERRIDE, *_sections(RunConfig, "config")]
    rows = [(code(name), prose(summary(make))) for name, make in PRESETS.items()]
    preset = "A named size, whose fields the other fields of `model` then override (`model.preset`)."
    parts += ['## Presets {: id="model.preset" }', preset, table(("preset", "what it is"), rows)]
    return "\n\n".join(parts)


def other_configs_page() -> str:
    """Fields of the files that `owl2 sweep` and `owl2 data prepare` read."""
    parts = ["# Fields of sweeps and data preparation"]
    parts += _sections(SweepConfig, "sweep")
    parts += _sections(PrepareConfig, "prepare")
    return "\n\n".join(parts)


def sources_page() -> str:
    """Every kind of source with its options."""
    words = (
        "`data.datasets.NAME.kind` names one of these, `data.datasets.NAME.options` sets its options; "
        "[Bring your data](../howto/data.md) shows how a set of each looks."
    )
    parts = ["# Sources of data", words]
    for kind, source in SOURCES.items():
        rows = list(_options(source, kind))
        parts += [f'## {kind} {{: id="{kind}" }}', prose(summary(source)), table(_HEAD, rows)]
    rows = [_row(field, "fields", Fields, {}) for field in dataclasses.fields(Fields)]
    parts += ['## Fields of a row {: id="fields" }', prose(description(Fields)), table(_HEAD, rows)]
    return "\n\n".join(parts)


def groups_of(root: type) -> dict[str, type]:
    """{dotted path: dataclass} of all groups below a config, each once, at its shortest path."""
    found: dict[str, type] = {}
    pending = [("", root)]
    while pending:
        path, cls = pending.pop(0)
        if cls in found.values():
            continue
        found[path] = cls
        for name, hint in type_hints(cls).items():
            step = f"{path}.{name}" if path else name
            pending += [(step + end, inner) for inner, end in _inside(hint)]
    top = [field.name for field in dataclasses.fields(root)]
    order = lambda path: top.index(path.partition(".")[0]) if path else -1
    return {path: found[path] for path in sorted(found, key=order)}


def _sections(root: type, name: str) -> list[str]:
    groups = groups_of(root)
    parts = []
    for path, cls in groups.items():
        title = code(path) if path else f"The {name}"
        rows = [_row(field, path, cls, groups) for field in dataclasses.fields(cls)]
        parts += [f'## {title} {{: id="{path or name}" }}', prose(description(cls)), table(_HEAD, rows)]
    return parts


def _row(field: dataclasses.Field, path: str, cls: type, groups: Mapping[str, type]) -> tuple[str, ...]:
    hint = type_hints(cls)[field.name]
    anchor = f"{path}.{field.name}" if path else field.name
    if anchor in groups:  # the section has this anchor
        anchor = ""
    return (
        code(field.name, anchor),
        _kind(hint, groups),
        _default(field),
        _range(hint),
        prose(meanings(cls, "Attributes").get(field.name, "")),
    )


def _options(source: type, kind: str) -> Sequence[tuple[str, ...]]:
    hints = typing.get_type_hints(source.__init__, include_extras=True)
    said = meanings(source, "Args")
    for name, parameter in list(inspect.signature(source.__init__).parameters.items())[1:]:
        default = "required" if parameter.default is parameter.empty else _value(parameter.default)
        hint = hints[name]
        yield (
            code(name, f"{kind}.{name}"),
            _kind(hint, {"fields": Fields}),
            default,
            _range(hint),
            prose(said.get(name, "")),
        )


def _inside(hint: Any, end: str = "") -> list[tuple[type, str]]:
    """The dataclasses in a type, with what their path has after the field's name."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [(hint, end)]
    origin = typing.get_origin(hint)
    inner_end = f"{end}.NAME" if origin in (dict, tuple) else end
    return [pair for inner in typing.get_args(hint) for pair in _inside(inner, inner_end)]


def _kind(hint: Any, groups: Mapping[str, type]) -> str:
    """A type in words; groups of fields link to their section."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        path = next((path for path, cls in groups.items() if cls is hint), None)
        return f"[group of fields](#{path})" if path else "group of fields"
    if origin is typing.Annotated:
        return _text_kind(args) if args[0] is str else _kind(args[0], groups)
    if origin is typing.Literal:
        return ", ".join(code(repr(value) if value is None else str(value)) for value in args)
    if origin in (typing.Union, types.UnionType):
        kinds = dict.fromkeys(_kind(arg, groups) for arg in args)
        if "path (also in a bucket)" in kinds:
            kinds.pop("path", None)  # the same as an object of Python
        return " or ".join(kinds)
    if origin in (tuple, list) or getattr(origin, "__name__", "") == "Sequence":
        inner = [_kind(arg, groups) for arg in args if arg is not Ellipsis]
        return f"list of {inner[0]}" if Ellipsis in args or len(inner) == 1 else f"({', '.join(inner)})"
    if origin is dict or getattr(origin, "__name__", "") == "Mapping":
        return f"&#123;{_kind(args[0], groups)}: {_kind(args[1], groups)}&#125;"  # a brace begins attributes
    if hint is type(None):
        return "None"
    if isinstance(hint, type) and issubclass(hint, PathLike):
        return "path"
    return _KINDS.get(hint) or str(getattr(hint, "__name__", hint))


def _text_kind(args: tuple[Any, ...]) -> str:
    kind = text_of(args[1:])
    if kind is None:
        return "text"
    if kind.path:
        return "path" if kind.path == "local" else "path (also in a bucket)"
    return "regular expression" if kind.regex else "text"


def _range(hint: Any) -> str:
    """The ranges of the numbers in a type."""
    if typing.get_origin(hint) is typing.Annotated:
        found = range_of(typing.get_args(hint)[1:])
        return _said(found) if found else ""
    return ", ".join(dict.fromkeys(filter(None, map(_range, typing.get_args(hint)))))


def _said(found: Range) -> str:
    ends = found.high == float("inf") and found.most != _INT32
    most = f"{found.most:,}".replace(",", "&nbsp;")
    return f"{found}, at most {most}" if ends else str(found)


def _default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return _value(field.default)
    if field.default_factory is dataclasses.MISSING:
        return "**required**"
    return _value(field.default_factory())


def _value(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return "its defaults"
    if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        return prose(", ".join(f"{field.name} `{getattr(value[0], field.name)!r}`"
                               for field in dataclasses.fields(value[0])[:2]))  # fmt: skip
    if isinstance(value, PathLike):
        return "in the package"  # the folder of the embedded corpus
    return code(repr(value))
