"""Reads the text of a compiled XLA module into instructions.

Only what counting bytes needs: shapes, operands, which computation calls which,
and how often a loop runs.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

_BYTES: Final = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "s64": 8, "u64": 8,
    "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16, "s4": 0.5, "u4": 0.5,
}  # fmt: skip
_ARRAY: Final = re.compile(r"\b([a-z]+[0-9]*(?:e[0-9]m[0-9][a-z]*)?)\[([0-9,]*)\](\{[^}]*\})?")
_NAME: Final = re.compile(r"%([\w.\-]+)")
_CALLED: Final = re.compile(r"(?:calls|body|to_apply)=%([\w.\-]+)")
_BRANCHES: Final = re.compile(r"branch_computations=\{([^}]*)\}")
_CONDITION: Final = re.compile(r"condition=%([\w.\-]+)")
_KNOWN_TRIPS: Final = re.compile(r'known_trip_count":\{"n":"(\d+)"')


@dataclass(frozen=True)
class Array:
    """One array of an instruction's result.

    Attributes:
      size: bytes.
      on_chip: it lies in a scratch memory of the chip, not in its main memory.
    """

    size: float
    on_chip: bool


@dataclass(frozen=True)
class Instruction:
    """One line: `%name = TYPE op(operands), attributes`.

    Attributes:
      arrays: what it gives; several for a tuple.
      operands: names of instructions.
      literal: text between the brackets; the value of a constant, the number
        of a parameter.
    """

    name: str
    arrays: tuple[Array, ...]
    op: str
    operands: tuple[str, ...]
    literal: str
    attributes: str
    is_root: bool

    @property
    def size(self) -> float:
        """Bytes of the result, wherever it lies."""
        return sum(array.size for array in self.arrays)

    @property
    def memory_size(self) -> float:
        """Bytes of the result in main memory."""
        return sum(array.size for array in self.arrays if not array.on_chip)

    def called(self) -> list[str]:
        """Names of the computations that it runs; a loop's condition is left out."""
        names = _CALLED.findall(self.attributes)
        for branches in _BRANCHES.findall(self.attributes):
            names += _NAME.findall(branches)
        return names


Computation = dict[str, Instruction]


@dataclass(frozen=True)
class Module:
    """All computations by name, and the name of the one that runs first."""

    computations: dict[str, Computation]
    entry: str

    def body(self, fusion: Instruction) -> Computation:
        """What a fusion computes."""
        return self.computations[fusion.called()[0]]

    def trips(self, loop: Instruction) -> int | None:
        """Iterations of a while loop that counts from 0 in steps of 1, or None."""
        known = _KNOWN_TRIPS.search(loop.attributes)
        if known:
            return int(known[1])
        condition = _CONDITION.search(loop.attributes)
        if condition is None:
            return None
        # The condition is `counter < constant`, and nothing else in it is constant.
        limits = [i.literal for i in self.computations[condition[1]].values() if i.op == "constant"]
        return int(limits[0]) if len(limits) == 1 and limits[0].isdigit() else None


def root(computation: Computation) -> Instruction:
    return next(instruction for instruction in computation.values() if instruction.is_root)


def parameter(computation: Computation, number: int) -> Instruction:
    return next(i for i in computation.values() if i.op == "parameter" and int(i.literal) == number)


def read_module(text: str) -> Module:
    """Parses `compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.endswith("{") and line.startswith(("%", "ENTRY")):
            name = _NAME.findall(line)[0]
            current = computations[name] = {}
            entry = name if line.startswith("ENTRY") else entry
        elif line == "}":
            current = None
        elif current is not None and line.startswith(("  %", "  ROOT %")):
            # Notes of kernels may go on over several lines; they start otherwise.
            instruction = _read_instruction(line.strip())
            current[instruction.name] = instruction
    return Module(computations, entry)


def _read_instruction(line: str) -> Instruction:
    is_root = line.startswith("ROOT ")
    name, _, rest = line.removeprefix("ROOT ").partition(" = ")
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    stop = _closing(rest, start)
    literal = rest[start + 1 : stop]
    return Instruction(
        name=name.lstrip("%"),
        arrays=_arrays(shape),
        op=rest[:start],
        operands=tuple(_NAME.findall(literal)),
        literal=literal,
        attributes=rest[stop + 1 :],
        is_root=is_root,
    )


def _closing(text: str, start: int) -> int:
    """Index of the bracket that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    raise ValueError(f"no closing bracket in {text[:80]!r}")


def _arrays(shape: str) -> tuple[Array, ...]:
    found = []
    for kind, sizes, layout in _ARRAY.findall(shape):
        count = math.prod(int(size) for size in sizes.split(",") if size)
        found.append(Array(count * _BYTES.get(kind, 1), "S(" in layout))
    return tuple(found)
