"""Keys of a settings file of others: each one is read, harmless or refused by name.

A table gives every known key its rule. A key that no table knows may turn
something off (null, false, nothing in it); with any other value it is refused,
as it may well change the model.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from owl2_jax.core.errors import Owl2Error, nearest

MOST: Final = 1 << 24  # largest size taken for one; far above any model
MOST_LAYERS: Final = 4096


@dataclass(frozen=True)
class KeyRule:
    """What becomes of a key.

    Attributes:
      read: the value is taken, and checked where it is.
      values: those that change nothing here; None for any.
      why: what to do about another value, for the message.
    """

    read: bool = False
    values: tuple[object, ...] | None = None
    why: str = ""


READ: Final = KeyRule(read=True)
HARMLESS: Final = KeyRule()
# Refused when it is set to anything at all.
OFF: Final = KeyRule(values=(False, None))


def only(*values: object, why: str = "") -> KeyRule:
    """Harmless with these values, refused with any other."""
    return KeyRule(values=values, why=why)


def table(rule: KeyRule, names: str) -> dict[str, KeyRule]:
    """{name: rule} for names that blanks separate."""
    return dict.fromkeys(names.split(), rule)


def check_keys(values: Mapping[str, Any], rules: Mapping[str, KeyRule], where: str) -> None:
    """Raises `Owl2Error` for the first key whose value would change what our model computes."""
    for key, value in values.items():
        rule = rules.get(key)
        if rule is None:
            if not _turned_off(value):
                raise _unknown(key, value, rules, where)
        elif rule.values is not None and not any(_same(value, harmless) for harmless in rule.values):
            why = f"; {rule.why}" if rule.why else ""
            raise Owl2Error(
                f"{where}: {name_of(key)} is {shown(value)}; only {rule.values[0]!r} is supported{why}"
            )


def _unknown(key: str, value: object, rules: Mapping[str, KeyRule], where: str) -> Owl2Error:
    near = nearest(key, rules, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return Owl2Error(
        f"{where}: {name_of(key)} is {shown(value)}, and no such setting is known{hint}, so it may change "
        "the model; remove it if it does not"
    )


def _turned_off(value: object) -> bool:
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


def _same(value: object, expected: object) -> bool:
    """Equality that keeps numbers and truth values apart."""
    return isinstance(value, bool) == isinstance(expected, bool) and value == expected


def name_of(key: str) -> str:
    """A key for a message; as a literal when it is no plain word."""
    return key if key.replace(".", "_").isidentifier() else shown(key)


def shown(value: object) -> str:
    """A value for a message, cut short."""
    return reprlib.repr(value)


def size(
    values: Mapping[str, Any], name: str, where: str, default: int | None = None, most: int = MOST
) -> int:
    """A positive whole number; `default` when it is left out."""
    value = values.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise Owl2Error(
            f"{where}: {name} should be a positive whole number"
            f"{f' up to {most}' if isinstance(value, int) and value > most else ''}, found {shown(value)}"
        )
    return value


def number(values: Mapping[str, Any], name: str, where: str, default: float | None = None) -> float:
    """A finite number above 0; `default` when it is left out."""
    value = values.get(name, default)
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
        if 0 < value < math.inf:
            return value
    raise Owl2Error(f"{where}: {name} should be a finite number above 0, found {shown(value)}")


def truth(values: Mapping[str, Any], name: str, where: str, default: bool = False) -> bool:
    """true or false; `default` when it is left out or null."""
    value = values.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise Owl2Error(f"{where}: {name} should be true or false, found {shown(value)}")
    return value


def group(values: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """A group of settings, which must be there."""
    found = values.get(name)
    if found is None:
        raise Owl2Error(f"{where}: {name} is missing, it should be a group of settings")
    if not isinstance(found, Mapping):
        raise Owl2Error(f"{where}: {name} should be a group of settings, found {shown(found)}")
    return found


@contextmanager
def named(where: str) -> Iterator[None]:
    """Puts the file in front of what our own configuration says about its sizes."""
    try:
        yield
    except Owl2Error as error:
        raise Owl2Error(f"{where}: {error}") from None
