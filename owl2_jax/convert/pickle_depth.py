"""How deep the values of a pickle are nested, found out without building them.

Python compares the keys of a dict by hashes, and a hash goes down into a tuple
with no bound: one nested a million times ends the process. Weights are nested a
handful of times.
"""

from __future__ import annotations

import pickle
import pickletools
from typing import BinaryIO, Final

MOST: Final = 100
# Change the object below what they take, and leave it there.
_CHANGES: Final = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
_DEEPER: Final = (
    "TUPLE",
    "TUPLE1",
    "TUPLE2",
    "TUPLE3",
    "FROZENSET",
    "REDUCE",
    "NEWOBJ",
    "NEWOBJ_EX",
    "OBJ",
    "INST",
)
_GETS: Final = ("GET", "BINGET", "LONG_BINGET")
_PUTS: Final = ("PUT", "BINPUT", "LONG_BINPUT")

Cell = list[int]  # the depth of one value; shared, as the value may change


def check_depth(file: BinaryIO) -> None:
    """Reads one pickle from here on, and goes back to where it began.

    Raises:
      pickle.UnpicklingError: values nested more than `MOST` deep.
      ValueError, LookupError: no whole pickle.
    """
    start = file.tell()
    stack: list[Cell | None] = []  # None is a mark
    memo: dict[int, Cell | None] = {}
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name == "MARK":
            stack.append(None)
        elif name in _GETS:
            stack.append(memo[int(argument)])
        elif name in _PUTS:
            memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            _take(opcode, stack)
    file.seek(start)


def _take(opcode: pickletools.OpcodeInfo, stack: list[Cell | None]) -> None:
    """What an opcode takes off the stack, and the depth of what it puts there."""
    taken: list[Cell] = []
    for kind in reversed(opcode.stack_before):
        if kind is pickletools.stackslice:
            while stack[-1] is not None:
                taken.append(stack.pop())
        else:
            cell = stack.pop()
            taken += [] if cell is None else [cell]
    depth = max((cell[0] for cell in taken), default=0) + (opcode.name in _DEEPER)
    if depth > MOST:
        raise pickle.UnpicklingError(f"its values are nested more than {MOST} deep, which weights are not")
    if opcode.name in _CHANGES:
        changed = taken[-1]
        changed[0] = depth
        stack.append(changed)
    else:
        stack += [[depth] for _ in opcode.stack_after]
