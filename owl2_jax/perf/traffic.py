"""Bytes that a compiled module moves: collectives and main memory, loops multiplied out.

XLA's own cost analysis counts the body of a loop once, and a model whose layers
are scanned is nearly all loop bodies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from owl2_jax.parallel.chips import Topology
from owl2_jax.perf import kernels
from owl2_jax.perf.hlo import KERNEL, Computation, Instruction, Module, parameter, root

COLLECTIVES: Final = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all",
)  # fmt: skip

# Instructions that move nothing themselves.
_FREE: Final = frozenset({
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call",
    "after-all", "partition-id", "replica-id", "iota", "opt-barrier", "domain",
})  # fmt: skip
_FREE_CALLS: Final = ("ConcatBitcast", "AllocateBuffer", "AssumeGatherIndicesInBound", "Sharding")
_SLICES: Final = ("dynamic-slice", "slice", "gather")
_UPDATES: Final = ("dynamic-update-slice", "scatter")
_VIEWS: Final = ("bitcast", "reshape")


@dataclass(frozen=True)
class Collective:
    """One collective of the program.

    Attributes:
      op: one of `COLLECTIVES`.
      group: devices that take part.
      received: bytes that a device takes in, in one execution.
      times: executions per run of the module.
      blocks: nothing else runs meanwhile; neither was it started ahead nor
        is it in fusions that compute.
      source: where in the model it comes from, as XLA remembers it.
    """

    op: str
    group: int
    received: float
    times: int
    blocks: bool
    source: str

    @property
    def total(self) -> float:
        """Bytes that a device takes in per run of the module."""
        return self.received * self.times


@dataclass
class Traffic:
    """What a run of a module moves, per device.

    Attributes:
      collectives: every collective once, with its number of executions, the
        largest first.
      memory_bytes: bytes between main memory and chip. Of kernels, operands and results count once,
        and of pages what the kernel fetches.
      unknown_loops: loops whose number of iterations is not in the text; they
        count once.
    """

    collectives: list[Collective] = field(default_factory=list)
    memory_bytes: float = 0.0
    unknown_loops: int = 0


def traffic(module: Module) -> Traffic:
    """Counts what one run of a compiled module moves."""
    result = Traffic()
    seen: dict[tuple[str, str], list[Collective]] = {}
    for name, times, within in _executed(module, module.entry, 1, None, result):
        computation = module.computations[name]
        for instruction in computation.values():
            op = instruction.op.removesuffix("-start")
            if op in COLLECTIVES:
                place = f"{name}/{instruction.name}"
                # One collective that is spread over several fusions shows up in each of them.
                key = (op, channel(instruction, place) if within is not None else place)
                found = collective(op, instruction, name, times)
                if within is not None and computes(within, computation):
                    found = replace(found, blocks=False)
                seen.setdefault(key, []).append(found)
            if within is None:
                result.memory_bytes += times * moved(instruction, computation, module)
    once = [replace(places[0], blocks=places[0].blocks and len(places) == 1) for places in seen.values()]
    result.collectives = sorted(once, key=lambda collective: -collective.total)
    return result


def channel(collective: Instruction, otherwise: str) -> str:
    """What all fusions that a collective is spread over have in common; `otherwise` where it has none."""
    found = re.search(r"channel_id=(\d+)", collective.attributes)
    return f"channel {found[1]}" if found else otherwise


def computes(fusion: Instruction, body: Computation) -> bool:
    """Whether a fusion has work beside the collective in its body: an estimate of its own, or a kernel."""
    return fusion.cycles is not None or any(inner.target == KERNEL for inner in body.values())


def _executed(
    module: Module, name: str, times: int, within: Instruction | None, result: Traffic
) -> Iterator[tuple[str, int, Instruction | None]]:
    """Every computation that runs: its name, how often, and the outermost instruction it is fused into."""
    yield name, times, within
    for instruction in module.computations[name].values():
        inner = times
        if instruction.op == "while":
            trips = module.trips(instruction)
            result.unknown_loops += trips is None
            inner = times * (1 if trips is None else trips)
        plain = instruction.op in ("while", "call", "conditional", "async-start")
        inside = within if within is not None or plain else instruction
        for called in instruction.called():
            yield from _executed(module, called, inner, inside, result)


def collective(op: str, instruction: Instruction, inside: str, times: int) -> Collective:
    """Reads a collective that stands in the computation `inside`."""
    group = _group_size(instruction.attributes)
    size = instruction.size
    if instruction.op.endswith("-start") and op != "all-reduce":
        # Of (operands, results, flags).
        operands = len(instruction.operands)
        size = sum(array.size for array in instruction.arrays[operands : 2 * operands])
    share = (group - 1) / group
    # The TPU compiler writes a reduce-scatter as a fusion of this name around an all-reduce.
    scatters = op == "all-reduce" and inside.startswith("all-reduce-scatter")
    if op == "all-reduce" and not scatters:
        received = 2 * size * share
    elif op == "reduce-scatter":
        received = size * (group - 1)
    elif op == "collective-permute":
        received = size
    else:
        received = size * share
    source = re.search(r'op_name="([^"]*)"', instruction.attributes)
    name = "reduce-scatter" if scatters else op
    return Collective(
        name, group, received, times, not instruction.op.endswith("-start"), source[1] if source else ""
    )


def collective_seconds(each: Collective, topology: Topology) -> float:
    """Of all its executions, at the rate at which the links bring its bytes to a chip."""
    if each.op == "collective-permute":
        # The compiler sends the halves of a windowed product around a ring in both directions.
        return each.total / (2 * topology.chip.link)
    return each.total / topology.receive_rate(each.group)


def _group_size(attributes: str) -> int:
    """Devices per group, from any of the notations of `replica_groups`; 2 for pairs."""
    named = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes)
    if named:
        sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        return math.prod(sizes[axis] for axis in re.findall(r"'([^']+)'", named[2]))
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes)
    if iota:
        return int(iota[1])
    listed = re.search(r"replica_groups=\{\{([^}]*)\}", attributes)
    return listed[1].count(",") + 1 if listed else 2


def moved(instruction: Instruction, computation: Computation, module: Module) -> float:
    """Bytes that an instruction reads from and writes to main memory."""
    op = instruction.op
    if op in _FREE or op.endswith("-done") or any(name in instruction.attributes for name in _FREE_CALLS):
        return 0.0
    operands = [computation[name].memory_size for name in instruction.operands if name in computation]
    if op == "fusion":
        return _fusion_moved(instruction, operands, module)
    if op in _SLICES:
        return 2 * instruction.memory_size
    if op in _UPDATES:
        return 2 * operands[1 if op == "dynamic-update-slice" else -1]
    if op == "copy-start":
        return operands[0] + sum(a.size for a in instruction.arrays[:1] if not a.on_chip)
    if op in ("slice-start", "async-start"):
        return instruction.arrays[1].size  # of (operand, result, flags)
    whole = sum(operands) + instruction.memory_size
    return min(whole, _kernel_moved(instruction, computation)) if instruction.target else whole


def _kernel_moved(call: Instruction, computation: Computation) -> float:
    """Bytes that a kernel fetches and writes, of pages just those it walks through; inf if unread."""
    try:
        return kernels.read_kernel(call, kernels.places(call, computation)).bytes
    except ValueError:
        return math.inf


def _fusion_moved(fusion: Instruction, operands: list[float], module: Module) -> float:
    """Reads and writes of a fusion; of an operand that is only sliced, just the slices."""
    body = module.body(fusion)
    read = sum(
        min(_read(parameter(body, number).name, body, module), size)
        for number, size in enumerate(operands)
        if size
    )
    last = root(body)
    results = [body[name] for name in last.operands] if last.op == "tuple" else [last]
    written = sum(
        min(_written(result, body, module), array.size)
        for array, result in zip(fusion.arrays, results, strict=False)
        if not array.on_chip
    )
    return read + written


def _read(name: str, body: Computation, module: Module) -> float:
    """Bytes of the value `name` that the instructions of a fusion look at."""
    total = 0.0
    for user in body.values():
        for number, operand in enumerate(user.operands):
            if operand != name:
                continue
            if user.op in _SLICES and number == 0:
                total += user.size
            elif user.op in _UPDATES and number == 0:
                pass  # written in place
            elif user.op in _VIEWS and not user.is_root:
                total += _read(user.name, body, module)
            elif user.op == "fusion":
                inner = module.body(user)
                total += _read(parameter(inner, number).name, inner, module)
            else:
                return body[name].size
    return total


def _written(result: Instruction, body: Computation, module: Module) -> float:
    """Bytes of a fusion's result that change; the rest of an updated array stays where it is."""
    if result.op in (*_VIEWS, "convert") and result.operands[0] in body:
        return _written(body[result.operands[0]], body, module)
    if result.op in _UPDATES:
        return body[result.operands[1 if result.op == "dynamic-update-slice" else -1]].size
    if result.op == "fusion":
        inner = module.body(result)
        last = root(inner)
        return result.size if last.op == "tuple" else _written(last, inner, module)
    return result.size
