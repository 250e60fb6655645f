"""Which modules a PEFT configuration adapts, by the rules of PEFT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from owl2_jax.convert.key_rules import MOST_LAYERS, shown
from owl2_jax.core.errors import Owl2Error


@dataclass(frozen=True)
class Selection:
    """The modules of an adapter.

    Attributes:
      targets: ends of names, or a pattern for whole names.
      excluded: the same, of what is left out.
      layers: indices of the layers that are adapted; None for all.
      stacks: names of the lists of layers that the indices count; empty for any.
    """

    targets: tuple[str, ...] | re.Pattern
    excluded: tuple[str, ...] | re.Pattern
    layers: frozenset[int] | None
    stacks: tuple[str, ...]

    def adapts(self, module: str) -> bool:
        """Whether a module, by its full name, has an adapter."""
        if _named(module, self.excluded) or not _named(module, self.targets):
            return False
        if self.layers is None or isinstance(self.targets, re.Pattern) or module in self.targets:
            return True
        return self._layer(module) in self.layers

    def _layer(self, module: str) -> int | None:
        for stack in self.stacks or (r"[^.]*",):
            found = re.match(rf".*\.{stack}\.(\d+)\.", module)
            if found:
                return int(found[1])
        return None


@dataclass(frozen=True)
class Saved:
    """The modules whose own weights lie beside the adapters, in place of the base's (`modules_to_save`).

    Attributes:
      names: ends of the names of modules.
    """

    names: tuple[str, ...] = ()

    def holds(self, tensor: str) -> bool:
        """Whether a tensor, by its full name, belongs to such a module or to one inside of it."""
        parts = tensor.split(".")
        modules = [".".join(parts[:count]) for count in range(1, len(parts))]
        return any(module.endswith(self.names) for module in modules)

    def guards(self, module: str) -> bool:
        """Whether PEFT keeps adapters off a module: it is such a one, or inside of one."""
        return any(f".{name}." in f".{module}." for name in self.names)


def read_saved(values: Mapping[str, Any], where: str) -> Saved:
    """`modules_to_save` of an `adapter_config.json`. Raises `Owl2Error` for anything but names."""
    where = f"{where}: modules_to_save"
    value = values.get("modules_to_save") or ()
    if not isinstance(value, list | tuple):
        raise Owl2Error(f"{where} should be a list of names, found {shown(value)}")
    names = _texts(value, where)
    odd = [name for name in names if not re.fullmatch(r"\w+(\.\w+)*", name)]
    if odd:
        raise Owl2Error(f"{where} names {shown(odd[0])}; expected ends of module names, as lm_head")
    return Saved(names)


def read_selection(values: Mapping[str, Any], where: str) -> Selection:
    """The selection of an `adapter_config.json`. Raises `Owl2Error` for values of another kind."""
    targets = values.get("target_modules")
    if targets is None or targets == []:
        raise Owl2Error(
            f"{where}: target_modules is {shown(targets)}; expected names of modules or a pattern"
        )
    if targets == "all-linear":
        raise Owl2Error(
            f"{where}: target_modules is 'all-linear', which includes the vision encoder; only modules of "
            "the decoder can have adapters here"
        )
    selection = Selection(
        _modules(targets, f"{where}: target_modules"),
        _modules(values.get("exclude_modules") or (), f"{where}: exclude_modules"),
        _layers(values.get("layers_to_transform"), f"{where}: layers_to_transform"),
        _stacks(values.get("layers_pattern") or (), f"{where}: layers_pattern"),
    )
    if isinstance(targets, str) and selection.layers is not None:
        raise Owl2Error(
            f"{where}: layers_to_transform stands beside target_modules {shown(targets)}, which is a pattern "
            "for whole names; PEFT takes layers only beside a list of names"
        )
    return selection


def _named(module: str, names: tuple[str, ...] | re.Pattern) -> bool:
    if isinstance(names, re.Pattern):
        return names.fullmatch(module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _modules(value: object, where: str) -> tuple[str, ...] | re.Pattern:
    return _pattern(value, where) if isinstance(value, str) else _texts(value, where)


def _stacks(value: object, where: str) -> tuple[str, ...]:
    stacks = _texts([value] if isinstance(value, str) else value, where)
    for stack in stacks:
        if _pattern(stack, where).groups:
            raise Owl2Error(
                f"{where} is {shown(stack)}; expected the name of a list of layers, without groups"
            )
    return stacks


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise Owl2Error(f"{where} should be a list of names or a text, found {shown(value)}")
    return tuple(value)


def _pattern(text: str, where: str) -> re.Pattern:
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise Owl2Error(f"{where} is {shown(text)}, which is no regular expression: {error}") from None


def _layers(value: object, where: str) -> frozenset[int] | None:
    if value is None or value == []:
        return None
    layers = value if isinstance(value, list) else [value]
    if not all(type(layer) is int and 0 <= layer < MOST_LAYERS for layer in layers):
        raise Owl2Error(f"{where} should be indices of layers, found {shown(value)}")
    return frozenset(layers)
