"""What a Pallas kernel does, read from its own program: grid, matrix products, vector operations, bytes.

The compiler estimates no cycles for a kernel, but the program is in the module's
text, and can be counted:

- matrix products run at the chip's peak;
- a vector operation is issued once per register of 8 x 128 numbers of 32
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
over rows and pages are counted by that. Other loops over data run as often as
the kernel's own estimate of its products says, and once where it has none.
"""

from __future__ import annotations

import base64
import functools
import math
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from owl2_jax.parallel.chips import Chip
from owl2_jax.perf.hlo import Computation, Instruction
from owl2_jax.perf.kernel_program import Program, block_bytes, fetched_by_itself, paged

if TYPE_CHECKING:
    from jaxlib.mlir import ir

_BODY: Final = re.compile(r'"custom_call_config":\s*\{"body":\s*"([^"]+)"')
_ESTIMATE: Final = re.compile(r'"cost_estimate":\s*\{[^}]*"flops":\s*"?(\d+)')
# Assumed: a step of the grid by itself, for addresses and for starting and awaiting copies.
STEP_SECONDS: Final = 0.35e-6
_REGISTER: Final = 1024
_SLOW: Final = ("math.exp", "math.exp2", "math.log", "arith.divf", "math.tanh")
_SLOW_VECTORS: Final = 4.0
_ARITHMETIC: Final = {"arith.addi": operator.add, "arith.subi": operator.sub, "arith.muli": operator.mul}
# Of vector operations only what computes or moves numbers between registers; views, loads and stores are
# issued beside it.
_COMPUTING: Final = (
    "arith.", "math.", "vector.multi_reduction", "vector.transpose", "tpu.transpose", "tpu.dynamic_rotate",
)  # fmt: skip
_VIEWS: Final = ("vector.shape_cast", "vector.broadcast", "vector.load", "tpu.concatenate", "arith.constant")


@dataclass(frozen=True)
class Work:
    """What a kernel does in one call, on one chip.

    Attributes:
      steps: of its grid.
      flops: of matrix products.
      vectors: vector operations, each for one register.
      bytes: of blocks fetched from and written to main memory.
      parallel: the grid has a dimension that two cores can share.
    """

    steps: float
    flops: float
    vectors: float
    bytes: float
    parallel: bool

    def seconds(self, chip: Chip) -> float:
        """By the model above."""
        used = 1.0 if self.parallel else 1.0 / chip.cores
        compute = self.flops / (chip.flops * used) + self.vectors / (chip.vector_rate * used)
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
    program = Program(base64.b64decode(found[1]))
    bounds = program.bounds
    if share is None:
        # Grids are heads x queries x keys, but keys x heads x queries for the keys' gradient.
        others = -3 if "dkv" in program.name else -2
        share = causal_share(bounds[others], bounds[-1]) if "splash" in program.name else 1.0
    flops, vectors, walk = 0.0, 0.0, paged(program)
    estimate = _ESTIMATE.search(call.attributes)
    repeats = _repeats(program, share, float(estimate[1])) if estimate and not walk else 1.0
    for operation, times in _executed(program, share, walk.trips if walk else (), repeats):
        flops += times * _product(operation)
        vectors += times * _vectors(operation)
    steps = float(math.prod(bounds))
    near = [*on_chip[program.tables :], *(array.on_chip for array in call.arrays)]
    moved = walk.bytes if walk else 0.0
    for number, (kind, lies_near) in enumerate(zip(program.windows, near, strict=False)):
        if fetched_by_itself(kind):
            moved += 0.0 if walk else block_bytes(kind)
        elif not lies_near:
            moved += _fetches(program, number, share) * block_bytes(kind)
    return Work(steps, steps * flops, steps * vectors, moved, program.parallel)


def causal_share(queries: int, keys: int) -> float:
    """Share of the blocks of queries x keys that hold a pair on or below the diagonal."""
    # Block i of the queries sees the keys up to its own end.
    seen = sum(math.ceil((block + 1) * keys / queries) for block in range(queries))
    return seen / (queries * keys)


def _fetches(program: Program, number: int, share: float) -> float:
    """How often a block is fetched or written: whenever an index that its place depends on moves."""
    axis = program.varies(number)
    times = float(math.prod(program.bounds[: axis + 1]))
    return times * share if axis == len(program.bounds) - 1 else times


def _repeats(program: Program, share: float, estimate: float) -> float:
    """Iterations of every loop over data with which a call's products are as many as it estimates."""
    without, once = (
        sum(times * _product(operation) for operation, times in _executed(program, share, (), repeats))
        for repeats in (0.0, 1.0)
    )
    wanted = estimate / math.prod(program.bounds) - without
    return max(wanted / (once - without), 0.0) if once > without else 1.0


def _executed(
    program: Program, share: float, trips: tuple[float, ...], repeats: float
) -> Iterator[tuple[ir.Operation, float]]:
    """Every operation of a step, and how often it runs in one of them on average.

    `trips` are the iterations of walks through pages, the outermost first; further ones run once. `repeats`
    are those of other loops whose bounds are data.
    """
    indices = dict(zip(program.block.arguments, program.bounds, strict=False))
    yield from _walk(program.block, 1.0, indices, share, trips, repeats)


def _walk(
    block: ir.Block,
    times: float,
    indices: dict[ir.Value, int],
    share: float,
    trips: tuple[float, ...],
    repeats: float,
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
            known = _trips(operation)
            inner = times * (repeats if known is None else known)
        else:
            yield operation, times
        for region in operation.regions:
            for body in region.blocks:
                yield from _walk(body, inner, indices, share, deeper, repeats)


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


def _trips(loop: ir.Operation) -> float | None:
    """Iterations of a loop, or None where its bounds are data."""
    first, last, step = (_constant(loop.operands[i]) for i in range(3))
    if first is None or last is None or not step:
        return None
    return float(max(-(-(last - first) // step), 1))


def _constant(value: ir.Value) -> int | None:
    """A number of the program, or what it computes of such."""
    owner = value.owner
    operands = getattr(owner, "operands", None)
    if operands is None:
        return None
    name = _name(owner)
    if name == "arith.constant":
        try:
            return int(owner.attributes["value"])
        except (TypeError, ValueError):  # of a vector
            return None
    arithmetic = _ARITHMETIC.get(name)
    numbers = [_constant(operand) for operand in operands] if arithmetic else [None]
    return None if None in numbers else arithmetic(*numbers)


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


def _vectors(operation: ir.Operation) -> float:
    name = _name(operation)
    if name in _VIEWS or not name.startswith(_COMPUTING):
        return 0.0
    shapes = [_shape(value) for value in (*operation.operands, *operation.results)]
    numbers = max((math.prod(shape) for shape in shapes if shape), default=0)
    return numbers / _REGISTER * (_SLOW_VECTORS if name in _SLOW else 1.0)
