"""Trees of named leaves: flat paths, regex rules with full cover, partitions.

A parameter tree is a nested dict. A leaf's name is its keys joined by "/",
for example "decoder/layers/attention/k_image/kernel". `flax.traverse_util` does as
much and imports JAX, for which a command that only refuses should not wait.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from owl2_jax.core.errors import Owl2Error, nearest

T = TypeVar("T")
Tree = Mapping[str, Any]  # nested mappings with any leaves
Params = dict[str, Any]  # nested dicts whose leaves are arrays, or what stands for one: a shape, a sharding
PyTree = Any  # what `jax.tree` takes apart: dicts, dataclasses, tuples, optimiser states


def flatten(tree: Tree) -> dict[str, Any]:
    """Nested dict to {"a/b/c": leaf}, sorted by name. `None` is a leaf; an empty dict vanishes."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, node: object) -> None:
        if isinstance(node, Mapping):
            for key, child in node.items():
                visit(f"{prefix}/{key}" if prefix else str(key), child)
        else:
            flat[prefix] = node

    visit("", tree)
    return dict(sorted(flat.items()))


def unflatten(flat: Mapping[str, Any]) -> Params:
    """Inverse of `flatten`."""
    tree: Params = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def match_rules(names: Iterable[str], rules: Sequence[tuple[str, T]]) -> dict[str, T]:
    """Gives every name the value of the first rule whose regex matches all of it.

    Args:
      names: leaf names.
      rules: (regex, value) pairs; the regex must match the whole name.

    Returns:
      {name: value} for every name.

    Raises:
      Owl2Error: a name that no rule matches, or a rule that matches no name
        (not even one taken by an earlier rule): both are typing errors.
    """
    names = list(names)
    compiled = []
    for pattern, value in rules:
        try:
            compiled.append((re.compile(pattern), pattern, value))
        except re.error as error:
            raise Owl2Error(f"rule {pattern!r} is not a regular expression: {error}") from None
    found: dict[str, T] = {}
    uncovered = []
    for name in names:
        for regex, _, value in compiled:
            if regex.fullmatch(name):
                found[name] = value
                break
        else:
            uncovered.append(name)
    if uncovered:
        shown = ", ".join(uncovered[:5]) + (" ..." if len(uncovered) > 5 else "")
        raise Owl2Error(
            f"{len(uncovered)} of {len(names)} parameters match no rule: {shown}; rules: "
            f"{[pattern for _, pattern, _ in compiled]}. Add a rule (a last rule '.*' covers the rest)."
        )
    for regex, pattern, _ in compiled:
        if not any(regex.fullmatch(name) for name in names):
            raise Owl2Error(f"rule {pattern!r} matches no parameter; near names: {_near(pattern, names)}")
    return found


def _near(pattern: str, names: Sequence[str]) -> str:
    """Names, or beginnings of names, that look like what a regex spells out."""
    spelled = re.sub(r"[^\w/]+", "", pattern).strip("/")
    beginnings = {name[:end] for name in names for end in [*_slashes(name), len(name)]}
    return ", ".join(nearest(spelled, beginnings) or names[:3])


def _slashes(name: str) -> list[int]:
    return [place for place, letter in enumerate(name) if letter == "/"]


def partition(tree: Tree, keep: Mapping[str, bool]) -> tuple[Params, Params]:
    """Splits a tree by leaf name into (kept, rest); `combine` puts them together again."""
    flat = flatten(tree)
    kept = {name: leaf for name, leaf in flat.items() if keep[name]}
    rest = {name: leaf for name, leaf in flat.items() if not keep[name]}
    return unflatten(kept), unflatten(rest)


def combine(*trees: Tree) -> Params:
    """Joins trees with disjoint leaves into one."""
    flat: dict[str, Any] = {}
    for tree in trees:
        for name, leaf in flatten(tree).items():
            if name in flat:
                raise ValueError(f"leaf {name!r} is in more than one of the trees")
            flat[name] = leaf
    return unflatten(dict(sorted(flat.items())))
