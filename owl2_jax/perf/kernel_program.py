"""The program of a Pallas kernel as a compiled module holds it: grid, blocks, the pages it walks through."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jaxlib.mlir import ir

_BITS: Final = re.compile(r"(\d+)$")
# Where an array lies that a kernel fetches from by itself.
_ANYWHERE: Final = ("any>", "hbm>")


class Program:
    """A kernel's function, its grid and its blocks."""

    def __init__(self, body: bytes) -> None:
        from jax._src.interpreters import mlir
        from jax._src.lib import tpu
        from jaxlib.mlir import ir

        context = mlir.make_ir_context()
        tpu.register_dialect(context)
        context.allow_unregistered_dialects = True
        try:
            with context:
                self._module = ir.Module.parse(body)  # owns all that is read from it
        except ir.MLIRError as error:
            raise ValueError(f"a kernel's program cannot be read: {error}") from error
        self._functions = {
            str(each.operation.attributes["sym_name"]).strip('"'): each.operation
            for each in self._module.body.operations
        }
        found = [f for f in self._functions.values() if "iteration_bounds" in f.attributes]
        if not found:
            raise ValueError("a kernel's program has no grid")
        self._main = found[0]
        attributes = self._main.attributes
        self.name = str(attributes["sym_name"])
        self.bounds = tuple(int(size) for size in attributes["iteration_bounds"])
        self.parallel = "parallel" in str(attributes["dimension_semantics"])
        # Tables that are there before the grid starts, which index the blocks.
        self.tables = int(attributes["scalar_prefetch"]) if "scalar_prefetch" in attributes else 0
        self.block = self._main.regions[0].blocks[0]
        arguments = [argument.type for argument in self.block.arguments][len(self.bounds) :]
        self.table_types, self.windows = arguments[: self.tables], arguments[self.tables :]

    def varies(self, number: int) -> int:
        """The innermost grid axis that the place of a block depends on, or -1."""
        function = self._functions.get(f"transform_{number}")
        if function is None:
            return len(self.bounds) - 1
        block = function.regions[0].blocks[0]
        axes = {argument: axis for axis, argument in enumerate(list(block.arguments)[: len(self.bounds)])}
        last = list(block.operations)[-1].operation
        return max((_axes(last.operands, axes)), default=-1)


def _axes(values: Iterable[ir.Value], axes: dict[ir.Value, int]) -> set[int]:
    """Grid axes that values depend on."""
    pending, found, seen = list(values), set(), set()
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        if value in axes:
            found.add(axes[value])
        else:
            pending += list(getattr(value.owner, "operands", ()))
    return found


@dataclass(frozen=True)
class Paged:
    """Walks through pages of main memory in one call.

    Attributes:
      bytes: of all pages fetched.
      trips: iterations of the loops over data in a step of the grid: rows of a block of queries,
        and blocks of a row's pages; the inner loop stands in the outer one.
    """

    bytes: float
    trips: tuple[float, float]


def paged(program: Program) -> Paged | None:
    """How a kernel walks through pages, or None for one that has no table of them.

    The table is int32[rows, places], the pages [pages, *page] in main memory, and what is fetched
    at a time lies in one of two scratch buffers [2, pages at a time, ...].
    """
    tables = [kind.shape for kind in program.table_types if len(kind.shape) == 2]
    far = [kind for kind in program.windows if fetched_by_itself(kind)]
    if len(tables) != 1 or len(far) != 1:
        return None
    (rows, places), page = tables[0], far[0].shape[1:]
    pairs = [k for k in program.windows if len(k.shape) == len(page) + 2 and tuple(k.shape)[:1] == (2,)]
    if len(pairs) != 1:
        return None
    blocks = program.bounds[-1]
    visits = max(rows, blocks)  # pairs of a block of queries and a row that has some of them
    walk = math.ceil(places / pairs[0].shape[1])
    heads = math.prod(program.bounds[:-1])
    return Paged(heads * visits * walk * block_bytes(pairs[0]) / 2, (visits / blocks, float(walk)))


def fetched_by_itself(kind: ir.Type) -> bool:
    """Whether an argument of the kernel is a whole array in main memory, no block of it."""
    return any(mark in str(kind) for mark in _ANYWHERE)


def block_bytes(kind: ir.Type) -> float:
    """Of an array of this type."""
    bits = _BITS.search(str(kind.element_type))
    return math.prod(kind.shape) * (int(bits[1]) if bits else 32) / 8
