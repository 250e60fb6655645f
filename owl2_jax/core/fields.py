"""Frozen dataclasses from plain dicts: unknown names refused, types checked.

Rooms own their settings as frozen dataclasses; files and command lines carry
plain dicts. This is the one way across.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from owl2_jax.core.errors import Owl2Error, unknown_name

C = TypeVar("C")


def from_dict(cls: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """Builds dataclass `cls` from `values`; nested dataclasses from nested dicts.

    Args:
      cls: a dataclass type.
      values: field name to value; fields left out keep their defaults.
      where: dotted path of `values` in the whole config, for messages.

    Raises:
      UnknownNameError: a key that is no field, with the nearest names.
      Owl2Error: a value of the wrong type, or a required field left out.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    kwargs = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in fields:
            raise unknown_name(f"field of {where or cls.__name__}", str(key), fields)
        kwargs[key] = _convert(hints[key], value, path)
    missing = [
        name
        for name, field in fields.items()
        if name not in kwargs
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise Owl2Error(f"{where or cls.__name__}: required {', '.join(missing)} not given")
    return cls(**kwargs)


def to_dict(value: Any) -> Any:
    """Inverse of `from_dict`: nested dataclasses to nested dicts of JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_dict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(item) for item in value]
    return value


def _convert(hint: Any, value: Any, path: str) -> Any:
    """Checks `value` against a type hint and returns it in the hinted type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        (inner,) = [arg for arg in args if arg is not type(None)]
        return _convert(inner, value, path)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise _wrong_type(path, "a group of fields", value)
        return from_dict(hint, value, path)
    if origin in (tuple, Sequence):
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise _wrong_type(path, "a sequence", value)
        if (len(args) == 2 and args[1] is Ellipsis) or origin is Sequence:
            return tuple(_convert(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))
        if len(value) != len(args):
            raise _wrong_type(path, f"{len(args)} values", value)
        return tuple(
            _convert(arg, item, f"{path}[{i}]") for i, (arg, item) in enumerate(zip(args, value, strict=True))
        )
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong_type(path, "a mapping", value)
        return {str(key): _convert(args[1], item, f"{path}.{key}") for key, item in value.items()}
    if origin is typing.Literal:
        if value not in args:
            raise unknown_name(path, str(value), [str(arg) for arg in args])
        return value
    return _convert_scalar(hint, value, path)


def _convert_scalar(hint: type, value: Any, path: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (hint is int and isinstance(value, bool)) or not isinstance(value, hint):
        raise _wrong_type(path, hint.__name__, value)
    return value


def _wrong_type(path: str, expected: str, value: Any) -> Owl2Error:
    return Owl2Error(f"{path}: expected {expected}, found {value!r} ({type(value).__name__})")
