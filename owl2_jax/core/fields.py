"""Frozen dataclasses from plain dicts: unknown names refused, types, ranges and texts checked.

Rooms own their settings as frozen dataclasses; files and command lines carry
plain dicts. This is the one way across.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from owl2_jax.core.errors import Owl2Error, UnknownNameError, nearest, shortened, unknown_name
from owl2_jax.core.paths import as_path, refuse_url
from owl2_jax.core.ranges import ANY_NUMBER, Range, range_of
from owl2_jax.core.texts import ANY_TEXT, Text, text_of

C = TypeVar("C")
Hint = Any  # a type, or what stands for one in an annotation, as `int | None`

# What older versions called fields of a dataclass, as its class variable `OLD_NAMES`: {old: new}, or
# {old: function} where a value became another one, several fields or none, which the function gives.
OldNames = Mapping[str, str | Callable[[Any], dict[str, Any]]]


def from_dict(cls: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """Builds dataclass `cls` from `values`; nested dataclasses from nested dicts.

    Args:
      cls: a dataclass type.
      values: field name to value; fields left out keep their defaults.
      where: dotted path of `values` in the whole config, for messages.

    Raises:
      UnknownNameError: a key that is no field, with the nearest names.
      Owl2Error: a value of the wrong type or out of its range, or a required field left out.
    """
    require_group(values, where or cls.__name__)
    hints = type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    kwargs = {}
    for key, value in _renamed(cls, values, where).items():
        path = f"{where}.{_word(key)}" if where else _word(key)
        if key not in fields:
            raise unknown_name(f"field of {where or cls.__name__}", _word(key), fields)
        kwargs[key] = _convert(hints[key], value, path)
    missing = [
        name
        for name, field in fields.items()
        if name not in kwargs
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise _MissingError(f"{where or cls.__name__}: required {', '.join(missing)} not given")
    try:
        return cls(**kwargs)
    except Owl2Error as error:
        raise _located(error, where) from None


def check_values(value: object, where: str) -> None:
    """Checks the fields of a dataclass that was built in code; its `__post_init__` calls it.

    Raises:
      Owl2Error: a number out of its range, a text not of its kind, or a value of another type.
    """
    for name, hint in type_hints(type(value)).items():
        _convert(hint, getattr(value, name), f"{where}.{name}" if where else name)


def check_value(hint: Hint, value: object, name: str) -> None:
    """Checks one value against its type and range. Raises `Owl2Error`, which begins with `name`.

    A whole number is looked at first: requests of a server have many, and most are in their range.
    """
    allowed = _whole_numbers(hint)
    if allowed is None or type(value) is not int or value not in allowed:
        _convert(hint, value, name)


@functools.cache
def _whole_numbers(hint: Hint) -> Range | None:
    """The range of a type of whole numbers; None for another type."""
    args = typing.get_args(hint)
    is_whole = typing.get_origin(hint) is Annotated and args[0] is int
    return (range_of(args[1:]) or ANY_NUMBER) if is_whole else None


def read_number(hint: Hint, text: str, name: str) -> Any:
    """The number that a word of the command line stands for.

    Args:
      hint: its type with its range, as `ranges.Count`.
      name: what the message calls it.

    Raises:
      Owl2Error: no number, or one out of the range.
    """
    kind, allowed = typing.get_args(hint)[0], range_of(typing.get_args(hint)[1:]) or ANY_NUMBER
    try:
        value = kind(text)
    except ValueError:
        raise Owl2Error(f"{name}: expected {_words(kind)}, {allowed}, found {shown(text)}") from None
    return _convert(hint, value, name)


def read_path(hint: Hint, text: str, name: str) -> Path:
    """The path that a word of the command line stands for.

    Args:
      hint: `texts.FilePath` or `texts.BucketPath`.
      name: what the message calls it.

    Raises:
      Owl2Error: a URL of an unknown kind, or of a bucket where none can be.
    """
    return as_path(_convert(hint, text, name))


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> None:
    """Checks keyword arguments against the annotations of `function`, before it is called.

    Raises:
      UnknownNameError: an argument that it does not take, with the nearest names.
      Owl2Error: one of the wrong type or out of its range, or a required one left out.
    """
    parameters = inspect.signature(function).parameters
    target = function.__init__ if isinstance(function, type) else function
    hints = typing.get_type_hints(target, include_extras=True)
    for name, value in arguments.items():
        if name not in parameters:
            raise unknown_name(f"field of {where}", _word(name), parameters)
        _convert(hints.get(name, Any), value, f"{where}.{name}")
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in arguments]
    if missing:
        raise Owl2Error(f"{where}: required {', '.join(missing)} not given; known: {', '.join(parameters)}")


def to_dict(value: Any) -> Any:
    """Inverse of `from_dict`: nested dataclasses to nested dicts of JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_dict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(item) for item in value]
    return value


def _renamed(cls: type, values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """`values` with what older versions called otherwise under the names of today; see `OldNames`."""
    old_names: OldNames = getattr(cls, "OLD_NAMES", {})
    result = {key: value for key, value in values.items() if key not in old_names}
    for old in [key for key in values if key in old_names]:
        new = old_names[old]
        given = new(values[old]) if callable(new) else {new: values[old]}
        for name, value in given.items():
            if name in result:
                place = where or cls.__name__
                raise Owl2Error(f"{place} has both {name!r} and its older name {old!r}; leave the older out")
            result[name] = value
    return result


@functools.cache
def type_hints(cls: type) -> dict[str, Hint]:
    """{field: its type with its range}, of a dataclass or a group of arguments."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: hint for name, hint in hints.items() if typing.get_origin(hint) is not typing.ClassVar}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> list[str]:
    """Lines "field: old -> new" for every field in which two configs, as JSON types, differ."""
    lines = []
    for key in sorted({*old, *new}):
        path = f"{where}.{key}" if where else key
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, path)
        elif before != after:
            lines.append(f"{path}: {before!r} -> {after!r}")
    return lines


def require_group(values: object, where: str) -> None:
    """Raises `Owl2Error` for what is no mapping of fields."""
    if not isinstance(values, Mapping):
        raise _wrong_type(where, "a group of fields", values)


class _MissingError(Owl2Error):
    """A group of fields without one that it needs."""


def _located(error: Owl2Error, where: str) -> Owl2Error:
    """The error of a group's own checks with the place of the group, where it does not name it."""
    named = str(error).startswith(where) or f"{where}." in str(error)
    if named or type(error) not in (Owl2Error, UnknownNameError):
        return error
    return type(error)(f"{where}: {error}")


def _convert(hint: Hint, value: Any, path: str) -> Any:
    """Checks `value` against a type hint and returns it in the hinted type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated and args[0] is not str:
        return _convert_number(args[0], value, path, range_of(args[1:]) or ANY_NUMBER)
    if hint is str or origin is Annotated:
        return _convert_text(value, path, text_of(args[1:]) or ANY_TEXT)
    if origin in (types.UnionType, typing.Union):
        return _convert_union(args, value, path)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, path)
    if origin in (tuple, Sequence, list):
        return _convert_sequence(origin, args, value, path)
    if origin in (dict, Mapping):
        return _convert_mapping(args, value, path)
    if origin is typing.Literal:
        return _convert_name(args, value, path)
    if hint in (int, float):
        return _convert_number(hint, value, path, ANY_NUMBER)
    if not isinstance(value, os.PathLike if hint in (Path, os.PathLike) else hint):
        spelt = hint is bool and _says(value, "true", "false")
        raise _wrong_type(path, _words(hint), value, f"; write {value.capitalize()}" if spelt else "")
    if hint in (Path, os.PathLike):
        refuse_url(value, path)
    return value


def _says(value: object, *words: str) -> bool:
    """Whether a value is one of the words that other languages have for one of Python's."""
    return isinstance(value, str) and value.lower() in words


def _convert_union(args: tuple[Hint, ...], value: Any, path: str) -> Any:
    """The first of several types that fits says what is wrong with the value."""
    if value is None and type(None) in args:
        return None
    kinds = [arg for arg in args if arg is not type(None)]
    for kind in kinds:
        if len(kinds) == 1 or _fits(kind, value):
            try:
                return _convert(kind, value, path)
            except Owl2Error as error:
                if type(None) in args and _says(value, "null", "none", "nil"):
                    raise Owl2Error(f"{error}; write None, as Python does") from None
                raise
    raise _wrong_type(path, " or ".join(dict.fromkeys(map(_words, kinds))), value)


def _fits(hint: Hint, value: object) -> bool:
    """Whether a value is of the outermost type of a hint."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _fits(args[0], value)
    if origin in (tuple, Sequence, list):
        return isinstance(value, list | tuple)
    if origin in (dict, Mapping) or dataclasses.is_dataclass(hint):
        return isinstance(value, Mapping) or (isinstance(hint, type) and isinstance(value, hint))
    return isinstance(value, os.PathLike if hint in (Path, os.PathLike) else hint)


def _convert_mapping(args: tuple[Hint, ...], value: object, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong_type(path, "a mapping", value)
    for key in value:
        if not isinstance(key, str) and _word(key) in value:
            raise Owl2Error(f"{path} has both {key!r} and {_word(key)!r}, which are one name; leave one out")
    entries: dict[str, Any] = {}
    incomplete: tuple[str, Owl2Error] | None = None
    for key, item in value.items():
        name = _convert(args[0], _word(key), f"key of {path}")
        try:
            entries[name] = _convert(args[1], item, f"{path}.{name}")
        except _MissingError as error:
            incomplete = incomplete or (name, error)
    if incomplete:
        raise _misspelt(*incomplete, path, entries)
    return entries


def _misspelt(name: str, error: Owl2Error, path: str, complete: Mapping[str, Any]) -> Owl2Error:
    """The error of an entry without what it needs, which may be meant to change one of the complete ones."""
    if not complete or not str(error).startswith(f"{path}.{name}: "):
        return error
    close = nearest(name, complete)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
    return Owl2Error(f"{error}{hint} Known: {shortened(', '.join(complete), 500)}.")


def _word(key: object) -> str:
    """The name that a key of a mapping stands for; a file may have numbers there."""
    return key if isinstance(key, str) else shown(key)


def _convert_sequence(origin: Hint, args: tuple[Hint, ...], value: object, path: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        named = isinstance(value, Mapping) and any(map(dataclasses.is_dataclass, args))
        hint = f"; {path} has no member to change, give all of it, as {path}=[{{...}}]" if named else ""
        raise _wrong_type(path, "a sequence", value, hint)
    if (len(args) == 2 and args[1] is Ellipsis) or origin is not tuple:
        return tuple(_convert(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if len(value) != len(args):
        raise _wrong_type(path, f"{len(args)} values", value)
    return tuple(
        _convert(arg, item, f"{path}[{i}]") for i, (arg, item) in enumerate(zip(args, value, strict=True))
    )


def _convert_name(args: tuple[Hint, ...], value: object, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong_type(path, f"one of {', '.join(map(repr, args))}", value)
    if value not in args:
        raise unknown_name(path, value, [str(arg) for arg in args])
    return value


def _convert_number(hint: type, value: Any, path: str, allowed: Range) -> Any:
    if isinstance(value, bool) or not isinstance(value, int if hint is int else int | float):
        raise _wrong_type(path, f"{_words(hint)}, {allowed}", value)
    number = _float(value) if hint is float else value
    if number not in allowed:
        raise Owl2Error(f"{path} must be {allowed.expected(number)}, found {shown(value)}")
    return number


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _convert_text(value: object, path: str, allowed: Text) -> str:
    if not isinstance(value, str):
        raise _wrong_type(path, _words(str), value)
    expected = allowed.expected(value)
    if expected is not None:
        raise Owl2Error(f"{path}: expected {expected}, found {shown(value)}")
    return value


_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False", Path: "a path",
          os.PathLike: "a path"}  # fmt: skip


def _words(hint: Hint) -> str:
    if typing.get_origin(hint) is Annotated:
        return _words(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (tuple, Sequence, list):
        return "a sequence"
    if typing.get_origin(hint) in (dict, Mapping) or dataclasses.is_dataclass(hint):
        return "a group of fields"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def shown(value: object) -> str:
    """A value as messages show it: on one line, and short."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {value.bit_length()} bits"  # Python writes out no longer ones
    try:
        text = repr(value)
    except ValueError:
        return "numbers of many digits"
    return shortened(text if text.isprintable() else ascii(value))


def _wrong_type(path: str, expected: str, value: object, hint: str = "") -> Owl2Error:
    return Owl2Error(f"{path}: expected {expected}, found {shown(value)} ({type(value).__name__}){hint}")
