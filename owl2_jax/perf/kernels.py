"""What a Pallas kernel does, read from its own program: grid, matrix products, vector operations, bytes.

The compiler estimates no cycles for a kernel, but the program is in the module's
text, and can be counted:

- matrix products run at the chip's peak;
- a vector operation takes one issue slot per register of 8 x 128 numbers of 32
  bits, and a core issues four of them per cycle; exponentials, logarithms and
  quotients take as long as four;
- products and vector operations of a step come one after the other, and blocks
  are fetched meanwhile: a step takes the longer of the two;
- every step of the grid costs some time by itself, also one that does nothing.

A branch on a grid index runs where the index says. A branch on data (splash
attention looks up which blocks its mask leaves) runs `share` of the time.

    grid 32 x 4 x 4, causal     share 10 / 16     x . . .
                                                  x x . .
                                                  x x x .
                                                  x x x x

A kernel over pages fetches them itself, as many as its table has places: every
block of queries walks through all pages of every row it belongs to. Its loops
over rows and pages are counted by that.
"""

from __future__ import annotations

import base64
import functools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from owl2_jax.parallel.chips import Chip
from owl2_jax.perf.hlo import Computation, Instruction

if TYPE_CHECKING:
    from jaxlib.mlir import ir

_BODY: Final = re.compile(r'"custom_call_config":\{"body":"([^"]+)"')
# Assumed: a step of the grid by itself, for addresses and for starting and awaiting copies.
STEP_SECONDS: Final = 0.35e-6
_REGISTER: Final = 1024
_SLOW: Final = ("math.exp", "math.exp2", "math.log", "arith.divf", "math.tanh")
_SLOW_SLOTS: Final = 4.0
# Of vector operations only what computes; views, loads and stores have slots of their own.
_VIEWS: Final = ("vector.shape_cast", "vector.broadcast", "vector.load", "tpu.concatenate", "arith.constant")
_BITS: Final = re.compile(r"(\d+)$")
# Where an array lies that a kernel fetches from by itself.
_ANYWHERE: Final = ("any>", "hbm>")


@dataclass(frozen=True)
class Work:
    """What a kernel does in one call, on one chip.

    Attributes:
      steps: of its grid.
      flops: of matrix products.
      slots: issue slots of vector operations, each for one register.
      bytes: of blocks fetched from and written to main memory.
      parallel: the grid has a dimension that two cores can share.
    """

    steps: float
    flops: float
    slots: float
    bytes: float
    parallel: bool

    def seconds(self, chip: Chip) -> float:
        """By the model above."""
        used = 1.0 if self.parallel else 1.0 / chip.cores
        compute = self.flops / (chip.flops * used) + self.slots / (chip.vector_rate * used)
        cores = chip.cores * used
        return max(compute, self.bytes / chip.bandwidth) + self.steps * STEP_SECONDS / cores


def places(call: Instruction, computation: Computation) -> tuple[bool, ...]:
    """Of every operand of a call in a computation, whether it lies in the chip's scratch memory."""
    return tuple(all(array.on_chip for array in computation[name].arrays) for name in call.operands)


@functools.lru_cache(maxsize=256)  # asked for by bytes and by seconds; reading one takes a tenth of a second
def read_kernel(call: Instruction, on_chip: tuple[bool, ...], share: float | None = None) -> Work:
    """Counts the program of a `tpu_custom_call`.

    Args:
      call: the custom call.
      on_chip: of every operand, whether it lies in the chip's scratch memory.
      share: of the steps on which branches on data run; None for causal
        attention when the kernel is one of splash attention, else all of them.

    Raises:
      ValueError: the call holds no program, or it cannot be read.
    """
    found = _BODY.search(call.attributes)
    if found is None:
        raise ValueError(f"no program in the call of {call.name}")
    program = _Program(base64.b64decode(found[1]))
    bounds = program.bounds
    if share is None:
        # Grids are heads x queries x keys, but keys x heads x queries for the keys' gradient.
        others = -3 if "dkv" in program.name else -2
        share = causal_share(bounds[others], bounds[-1]) if "splash" in program.name else 1.0
    flops, slots, paged = 0.0, 0.0, _paged(program)
    for operation, times in _executed(program, share, paged.trips if paged else ()):
        flops += times * _product(operation)
        slots += times * _slots(operation)
    steps = float(math.prod(bounds))
    near = [*on_chip[program.tables :], *(array.on_chip for array in call.arrays)]
    moved = paged.bytes if paged else 0.0
    for number, (kind, lies_near) in enumerate(zip(program.windows, near, strict=False)):
        if _fetched_by_itself(kind):
            moved += 0.0 if paged else _block_bytes(kind)
        elif not lies_near:
            moved += _fetches(program, number, share) * _block_bytes(kind)
    return Work(steps, steps * flops, steps * slots, moved, program.parallel)


@dataclass(frozen=True)
class _Paged:
    """Walks through pages of main memory in one call.

    Attributes:
      bytes: of all pages fetched.
      trips: iterations of the loops over data in a step of the grid: rows of a block of queries,
        and blocks of a row's pages; the inner loop stands in the outer one.
    """

    bytes: float
    trips: tuple[float, float]


def _paged(program: _Program) -> _Paged | None:
    """How a kernel walks through pages, or None for one that has no table of them.

    The table is int32[rows, places], the pages [pages, *page] in main memory, and what is fetched
    at a time lies in one of two scratch buffers [2, pages at a time, ...].
    """
    tables = [kind.shape for kind in program.table_types if len(kind.shape) == 2]
    far = [kind for kind in program.windows if _fetched_by_itself(kind)]
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
    return _Paged(heads * visits * walk * _block_bytes(pairs[0]) / 2, (visits / blocks, float(walk)))


def _fetched_by_itself(kind: ir.Type) -> bool:
    """Whether an argument of the kernel is a whole array in main memory, no block of it."""
    return any(mark in str(kind) for mark in _ANYWHERE)


def causal_share(queries: int, keys: int) -> float:
    """Share of the blocks of queries x keys that hold a pair on or below the diagonal."""
    # Block i of the queries sees the keys up to its own end.
    seen = sum(math.ceil((block + 1) * keys / queries) for block in range(queries))
    return seen / (queries * keys)


class _Program:
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


def _fetches(program: _Program, number: int, share: float) -> float:
    """How often a block is fetched or written: whenever an index that its place depends on moves."""
    axis = program.varies(number)
    times = float(math.prod(program.bounds[: axis + 1]))
    return times * share if axis == len(program.bounds) - 1 else times


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


def _executed(
    program: _Program, share: float, trips: tuple[float, ...]
) -> Iterator[tuple[ir.Operation, float]]:
    """Every operation of a step, and how often it runs in one of them on average.

    `trips` are the iterations of loops over data, the outermost first; further ones count once.
    """
    indices = dict(zip(program.block.arguments, program.bounds, strict=False))
    yield from _walk(program.block, 1.0, indices, share, trips)


def _walk(
    block: ir.Block, times: float, indices: dict[ir.Value, int], share: float, trips: tuple[float, ...]
) -> Iterator[tuple[ir.Operation, float]]:
    for each in block.operations:
        operation = each.operation
        name = _name(operation)
        inner, deeper = times, trips
        if name == "scf.while":
            inner, deeper = times * (trips[0] if trips else 1.0), trips[1:]
        elif name == "scf.if":
            size = _index_of(operation.operands[0], indices)
            inner = times * (share if size is None else 1.0 / size)
        elif name == "scf.for":
            inner = times * _trips(operation)
        else:
            yield operation, times
        for region in operation.regions:
            for body in region.blocks:
                yield from _walk(body, inner, indices, share, deeper)


def _name(operation: ir.Operation) -> str:
    return str(operation.name).removeprefix("stable_mosaic.")


def _index_of(value: ir.Value, indices: dict[ir.Value, int]) -> int | None:
    """Size of the grid axis whose index alone a condition compares with a constant, or None."""
    pending, sizes = [value], []
    while pending:
        current = pending.pop()
        if current in indices:
            sizes.append(indices[current])
            continue
        owner = getattr(current.owner, "operands", None)
        if owner is None or "load" in str(getattr(current.owner, "name", "")):
            return None
        pending += list(owner)
    return sizes[0] if len(sizes) == 1 else None


def _trips(loop: ir.Operation) -> float:
    """Iterations of a loop with constant bounds, else 1."""
    try:
        first, last, step = (int(loop.operands[i].owner.attributes["value"]) for i in range(3))
    except (KeyError, AttributeError, ValueError, TypeError):
        return 1.0
    return float(max(-(-(last - first) // step), 1))


def _shape(value: ir.Value) -> tuple[int, ...]:
    """Sizes of a vector, empty for a scalar."""
    kind = value.type
    return tuple(kind.shape) if hasattr(kind, "shape") and "vector" in str(kind) else ()


def _product(operation: ir.Operation) -> float:
    """Operations of a matrix product."""
    if _name(operation) not in ("tpu.matmul", "vector.contract"):
        return 0.0
    left, right = (math.prod(_shape(operation.operands[i])) for i in (0, 1))
    result = math.prod(_shape(operation.results[0]))
    # Without batch: (m k)(k n) = mn k**2.
    return 2.0 * result * math.sqrt(left * right / result)


def _slots(operation: ir.Operation) -> float:
    name = _name(operation)
    if name in _VIEWS or not name.startswith(("arith.", "math.", "vector.multi_reduction")):
        return 0.0
    shapes = [_shape(value) for value in (*operation.operands, *operation.results)]
    numbers = max((math.prod(shape) for shape in shapes if shape), default=0)
    return numbers / _REGISTER * (_SLOW_SLOTS if name in _SLOW else 1.0)


def _block_bytes(kind: ir.Type) -> float:
    bits = _BITS.search(str(kind.element_type))
    return math.prod(kind.shape) * (int(bits[1]) if bits else 32) / 8
