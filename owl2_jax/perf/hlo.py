"""Reads the text of a compiled XLA module into instructions.

What counting bytes, operations and cycles needs: shapes, operands, which
computation calls which, how often a loop runs, and what the compiler noted at
an instruction: its estimate of cycles, the module of the model and the source line.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import PurePath
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
_CYCLES: Final = re.compile(r'"estimated_cycles":"(\d+)"')
_SCOPE: Final = re.compile(r'op_name="([^"]*)"')
_FRAME: Final = re.compile(r"stack_frame_id=(\d+)")
_TARGET: Final = re.compile(r'custom_call_target="([^"]*)"')
# Tables of source lines between the module's header and its first computation.
_TABLES: Final = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
_PACKAGE: Final = "owl2_jax"
# What a Pallas kernel is a custom call of.
KERNEL: Final = "tpu_custom_call"


@dataclass(frozen=True)
class Array:
    """One array of an instruction's result.

    Attributes:
      size: bytes.
      on_chip: it lies in a scratch memory of the chip, not in its main memory.
      dims: sizes of its axes.
    """

    size: float
    on_chip: bool
    dims: tuple[int, ...] = ()


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

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate of one execution, or None where it gives none."""
        found = _CYCLES.search(self.attributes)
        return int(found[1]) if found else None

    @property
    def scope(self) -> str:
        """Path of the modules it comes from, as XLA remembers it: `jit(inner)/.../layers/mlp/up/dot`."""
        found = _SCOPE.search(self.attributes)
        return found[1] if found else ""

    @property
    def target(self) -> str:
        """What a custom call calls, or an empty string."""
        found = _TARGET.search(self.attributes)
        return found[1] if found else ""

    def called(self) -> list[str]:
        """Names of the computations that it runs; a loop's condition is left out."""
        names = _CALLED.findall(self.attributes)
        for branches in _BRANCHES.findall(self.attributes):
            names += _NAME.findall(branches)
        return names


Computation = dict[str, Instruction]


@dataclass(frozen=True)
class Module:
    """All computations by name, the name of the one that runs first, and source lines by frame."""

    computations: dict[str, Computation]
    entry: str
    lines: dict[int, str] = field(default_factory=dict)

    def line(self, instruction: Instruction) -> str:
        """`model/decoder.py:180`, the innermost line of ours it comes from, or an empty string."""
        frame = _FRAME.search(instruction.attributes)
        return self.lines.get(int(frame[1]), "") if frame else ""

    def with_false_conditions(self) -> Module:
        """The module as it runs where no condition holds: each takes its first branch, that of false."""
        return replace(
            self,
            computations={
                name: {key: _with_first_branch(each) for key, each in computation.items()}
                for name, computation in self.computations.items()
            },
        )

    def body(self, fusion: Instruction) -> Computation:
        """What a fusion computes."""
        return self.computations[fusion.called()[0]]

    def kernel(self, instruction: Instruction, around: Computation) -> tuple[Instruction, Computation] | None:
        """The call of a Pallas kernel and where it stands: here, or in a fusion with a collective."""
        if instruction.target == KERNEL:
            return instruction, around
        body = self.body(instruction) if instruction.op == "fusion" else {}
        found = next((inner for inner in body.values() if inner.target == KERNEL), None)
        return None if found is None else (found, body)

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


def _with_first_branch(instruction: Instruction) -> Instruction:
    branches = _BRANCHES.search(instruction.attributes) if instruction.op == "conditional" else None
    if branches is None:
        return instruction
    first = _NAME.findall(branches[1])[0]
    return replace(
        instruction, attributes=_BRANCHES.sub(f"branch_computations={{%{first}}}", instruction.attributes)
    )


def root(computation: Computation) -> Instruction:
    """The instruction whose value a computation returns."""
    return next(instruction for instruction in computation.values() if instruction.is_root)


def parameter(computation: Computation, number: int) -> Instruction:
    """The instruction that is parameter `number` of a computation."""
    return next(i for i in computation.values() if i.op == "parameter" and int(i.literal) == number)


def read_module(text: str) -> Module:
    """Parses `compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry, pending = "", ""
    current: Computation | None = None
    for line in text.splitlines():
        starts = line.startswith(("  %", "  ROOT %"))
        if current is not None and pending and (starts or line == "}"):
            instruction = _read_instruction(pending)
            current[instruction.name] = instruction
            pending = ""
        if line.endswith("{") and line.startswith(("%", "ENTRY")):
            name = _NAME.findall(line)[0]
            current = computations[name] = {}
            entry = name if line.startswith("ENTRY") else entry
        elif line == "}":
            current = None
        elif current is not None:
            # Notes of kernels go on over several lines.
            pending = line.strip() if starts else pending + line.strip()
    return Module(computations, entry, _source_lines(text))


def _source_lines(text: str) -> dict[int, str]:
    """Innermost line of this package, else of anybody, by number of the stack frame."""
    start = text.find("FileNames\n")
    if start < 0:
        return {}
    rows = _rows(text[start : text.find("\n\n%", start)])
    files = {key: value.strip('"') for key, value in rows["FileNames"].items()}
    places = {key: _numbers(value) for key, value in rows["FileLocations"].items()}
    frames = {key: _numbers(value) for key, value in rows["StackFrames"].items()}

    def ours(frame: int) -> bool:
        return _PACKAGE in PurePath(files[places[frames[frame]["file_location_id"]]["file_name_id"]]).parts

    def line(frame: int) -> str:
        while not ours(frame) and frames[frame].get("parent_frame_id", frame) != frame:
            frame = frames[frame]["parent_frame_id"]
        place = places[frames[frame]["file_location_id"]]
        parts = PurePath(files[place["file_name_id"]]).parts
        inside = parts[len(parts) - parts[::-1].index(_PACKAGE) :] if _PACKAGE in parts else parts[-2:]
        return f"{'/'.join(inside)}:{place['line']}"

    return {frame: line(frame) for frame in frames}


def _rows(header: str) -> dict[str, dict[int, str]]:
    """Rows of the tables by name and number."""
    rows: dict[str, dict[int, str]] = {name: {} for name in _TABLES}
    current = None
    for line in header.splitlines():
        number, _, value = line.partition(" ")
        if line in rows:
            current = rows[line]
        elif current is not None and number.isdigit():
            current[int(number)] = value
    return rows


def _numbers(row: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", row)}


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
        dims = tuple(int(size) for size in sizes.split(",") if size)
        found.append(Array(math.prod(dims) * _BYTES.get(kind, 1), "S(" in layout, dims))
    return tuple(found)
