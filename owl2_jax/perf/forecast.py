"""How long a compiled step takes, from the compiler's own estimates.

Every fusion and copy of a program compiled for TPU carries the cycles that the
compiler expects. The forecast walks through the schedule (`perf.schedule`) and
takes, of every instruction, the longer of that estimate and the time of its bytes
at the memory's bandwidth; of a Pallas kernel, what its program adds up to
(`perf.kernels`); of a collective, its bytes over the links' rate. Left out are
the latency of a collective's start, and all that is no device time: input,
dispatch, checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from owl2_jax.parallel.chips import Topology
from owl2_jax.perf import kernels, products, schedule
from owl2_jax.perf.hlo import Computation, Instruction, Module
from owl2_jax.perf.traffic import COLLECTIVES, collective_seconds, moved

REST: Final = "rest of the step"

# Parts of the model by what stands in an instruction's path; the first that fits.
_PARTS: Final = (
    ("vision", ("vision",)),
    ("abstractor", ("abstractor", "abstractor._project")),
    ("head", ("head", "decoder.logits", "jvp()", "transpose(jvp())")),
    ("embedding", ("decoder.embed", "Owl2.embed")),
    ("decoder", ("decoder", "layers", "attention", "mlp")),
)
_MOVES: Final = frozenset({"copy", "transpose", "bitcast", "reshape", "bitcast-convert"})
_CUTS: Final = _MOVES | {"slice", "dynamic-slice", "dynamic-update-slice", "pad", "concatenate", "gather"}
_NO_WORK: Final = frozenset(
    {"parameter", "constant", "tuple", "get-tuple-element", "iota", "add", "compare", "select", "broadcast"}
)


@dataclass(frozen=True)
class Op:
    """An instruction with all its executions in one step.

    Attributes:
      part: of the model: "decoder", "vision", ..., or `REST`.
      kind: "product", "kernel", "network" or "memory" (waiting for what was
        started ahead), "norm", "layout copy", "convert", "cut" (of stacked
        arrays), "fill", "elementwise".
      scope: its path in the model. line: of the source, `model/layers.py:125`.
      times: executions.
      seconds: of all executions.
      flops: of matrix products, all executions.
    """

    name: str
    part: str
    kind: str
    scope: str
    line: str
    times: int
    seconds: float
    flops: float


@dataclass(frozen=True)
class Forecast:
    """Of one step on one chip.

    Attributes:
      seconds: of the step.
      ops: what it consists of, the longest first.
      unread: kernels whose program could not be read; they count by their bytes.
      unknown_loops: that count as one iteration.
    """

    seconds: float
    ops: tuple[Op, ...]
    unread: tuple[str, ...] = ()
    unknown_loops: int = 0


@dataclass
class Group:
    """Operations of one part and kind together."""

    part: str
    kind: str
    seconds: float = 0.0
    flops: float = 0.0


@dataclass
class _Costs:
    """Costs of instructions on a chip, and the kernels that were not understood."""

    module: Module
    topology: Topology
    unread: list[str] = field(default_factory=list)

    def own(self, instruction: Instruction, computation: Computation) -> float:
        chip = self.topology.chip
        kernel = self.module.kernel(instruction, computation)
        if kernel is not None:
            try:
                return kernels.read_kernel(kernel[0], kernels.places(*kernel)).seconds(chip)
            except ValueError:
                self.unread.append(instruction.name)
        cycles = instruction.cycles
        estimate = cycles / chip.clock if cycles is not None else 0.0
        if cycles is not None and self._carries(instruction):
            return estimate  # its other operands are the collective's
        return max(estimate, self.memory(moved(instruction, computation, self.module)))

    def memory(self, size: float) -> float:
        return size / self.topology.chip.bandwidth

    def _carries(self, instruction: Instruction) -> bool:
        """Whether a fusion carries a collective, or goes on with one, while it computes."""
        return instruction.op == "fusion" and any(
            inner.op in COLLECTIVES for inner in self.module.body(instruction).values()
        )


def forecast(module: Module, topology: Topology) -> Forecast:
    """The forecast of a scheduled module, read by `hlo.read_module`."""
    costs = _Costs(module, topology)
    timeline = schedule.walk(
        module,
        schedule.Costs(
            own=costs.own, network=lambda each: collective_seconds(each, topology), memory=costs.memory
        ),
    )
    ops = sorted((_op(event, module) for event in timeline.events), key=lambda op: -op.seconds)
    unread = tuple(dict.fromkeys(costs.unread))
    return Forecast(timeline.seconds, tuple(ops), unread, timeline.unknown_loops)


def groups(ops: Sequence[Op]) -> list[Group]:
    """By part and kind, the longest first."""
    found: dict[tuple[str, str], Group] = {}
    for op in ops:
        group = found.setdefault((op.part, op.kind), Group(op.part, op.kind))
        group.seconds += op.seconds
        group.flops += op.flops
    return sorted(found.values(), key=lambda group: -group.seconds)


def _op(event: schedule.Event, module: Module) -> Op:
    instruction = event.instruction
    scope = instruction.scope or event.around
    flops = 0.0 if event.waits_for else products.flops(instruction, event.computation, module)
    return Op(
        name=instruction.name,
        part=part_of(scope),
        kind=event.waits_for or _kind(instruction, module, scope, flops),
        scope=scope,
        line=module.line(instruction),
        times=event.times,
        seconds=event.seconds,
        flops=flops * event.times,
    )


def part_of(scope: str) -> str:
    """The part of the model that a path belongs to."""
    names = scope.split("/")
    for part, marks in _PARTS:
        if any(mark in names for mark in marks):
            return part
    return REST


def _kind(instruction: Instruction, module: Module, scope: str, flops: float) -> str:
    if module.kernel(instruction, {}) is not None:
        return "kernel"
    if flops:
        return "product"
    done = _done(instruction, module) - _NO_WORK
    if done and done <= _MOVES:
        return "layout copy"
    if done and done <= _CUTS:
        return "cut"
    if "norm" in scope.rpartition("/layers/")[2]:
        return "norm"
    if done and done <= _CUTS | {"convert", "reduce-precision"}:
        return "convert"
    return "elementwise" if done else "fill"


def _done(instruction: Instruction, module: Module) -> set[str]:
    """Names of the operations in an instruction, those inside a fusion included."""
    if instruction.op != "fusion":
        return {instruction.op}
    body = module.body(instruction)
    return set().union(*(_done(inner, module) for inner in body.values()))
