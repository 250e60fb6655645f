"""Names that a reader may type: flags of commands and fields of configs, as the code has them."""

from __future__ import annotations

import argparse
import dataclasses
import typing

from owl2_jax.core.fields import type_hints


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """Every flag of a command and of its actions that its help shows."""
    flags = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            flags |= set().union(*map(flags_of, action.choices.values()))
        elif action.help != argparse.SUPPRESS:
            flags |= {option for option in action.option_strings if option.startswith("--")}
    return flags


def fields_of(cls: type, path: str = "") -> set[str]:
    """Dotted names of all fields below a config; members of a list or a table of groups are NAME."""
    names = set()
    for name, hint in type_hints(cls).items():
        step = f"{path}.{name}" if path else name
        names.add(step)
        end = ".NAME" if typing.get_origin(hint) in (dict, tuple) else ""
        for group in subclasses(hint):
            names |= fields_of(group, step + end)
    return names


def subclasses(hint: object) -> list[type]:
    """The dataclasses in a type."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [hint]
    return [found for inner in typing.get_args(hint) for found in subclasses(inner)]
