"""Walks through a scheduled module in time.

A TPU program is a list of instructions that start one after the other. Copies
between main memory and the chip, and collectives, may be started ahead and
awaited later; what runs between start and end overlaps them:

    copy-start   product   product   copy-done         waits for the rest of the copy
    |------- copy ------------------------|
                 |--------|---------|-----|

Copies share the memory's bandwidth with each other and with instructions that
read main memory themselves (those go first); collectives share the links. One
that begins and ends in a fusion that computes meanwhile takes the longer of both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from owl2_jax.perf.hlo import Computation, Instruction, Module
from owl2_jax.perf.traffic import COLLECTIVES, Collective, channel, collective, computes, moved

_COPIES: Final = ("copy-start", "slice-start")
_START: Final = "AsyncCollectiveStart"
_DONE: Final = "AsyncCollectiveDone"


@dataclass(frozen=True)
class Event:
    """Time that goes by at an instruction.

    Attributes:
      instruction, computation: what runs, and where it stands.
      seconds: of all executions.
      times: executions.
      waits_for: "" for its own work, "network" or "memory" for waiting for what was started ahead or is
        carried by it.
      around: scope of the innermost loop or call around it.
    """

    instruction: Instruction
    computation: Computation
    seconds: float
    times: int
    waits_for: str
    around: str


@dataclass
class Timeline:
    """A run of a computation.

    Attributes:
      seconds: of all.
      events: what it consists of.
      unknown_loops: loops whose number of iterations is not in the text; they count once.
    """

    seconds: float = 0.0
    events: list[Event] = field(default_factory=list)
    unknown_loops: int = 0


@dataclass(frozen=True)
class Costs:
    """What things take, in seconds.

    Attributes:
      own: an instruction by itself, which stands in a computation.
      network: a collective.
      memory: bytes between main memory and chip.
    """

    own: Callable[[Instruction, Computation], float]
    network: Callable[[Collective], float]
    memory: Callable[[float], float]


def walk(module: Module, costs: Costs) -> Timeline:
    """The timeline of a run of the module."""
    return _Walk(module, costs).run(module.entry, "")


class _Walk:
    def __init__(self, module: Module, costs: Costs) -> None:
        self._module = module
        self._costs = costs
        # Of collectives that are spread over fusions: one starts them, others compute meanwhile.
        self._started = {
            channel(inner, "")
            for body in module.computations.values()
            if any(each.target == _START for each in body.values())
            for inner in body.values()
            if inner.op in COLLECTIVES
        }

    def run(self, name: str, around: str) -> Timeline:
        """One execution of a computation; nothing is under way when it begins."""
        state = _State(self._costs)
        for instruction in self._module.computations[name].values():
            self._step(state, instruction, name, around)
        return Timeline(state.now, state.events, state.unknown_loops)

    def _step(self, state: _State, instruction: Instruction, inside: str, around: str) -> None:
        computation = self._module.computations[inside]
        if instruction.op in ("while", "call", "conditional"):
            self._enter(state, instruction, around)
            return
        found = self._collective(instruction, inside)
        if found is not None:
            key, each, step = found
            if step == "start":
                state.start_network(key, self._costs.network(each))
            else:
                if step == "carried":
                    state.start_network(key, self._costs.network(each))
                    self._work(state, instruction, computation, around)
                # One that was not started ahead runs now.
                wait = state.end_network(key, self._costs.network(each))
                state.spend(Event(instruction, computation, wait, 1, "network", around))
        elif instruction.op in _COPIES:
            state.start_copy(
                instruction.name, self._costs.memory(moved(instruction, computation, self._module))
            )
        elif instruction.op.endswith("-done"):
            wait = state.end_copy(instruction.operands[0])
            started = computation.get(instruction.operands[0], instruction)
            state.spend(Event(started, computation, wait, 1, "memory", around))
        else:
            self._work(state, instruction, computation, around)

    def _work(self, state: _State, instruction: Instruction, computation: Computation, around: str) -> None:
        seconds = self._costs.own(instruction, computation)
        state.spend(
            Event(instruction, computation, seconds, 1, "", around),
            self._costs.memory(moved(instruction, computation, self._module)),
        )

    def _enter(self, state: _State, instruction: Instruction, around: str) -> None:
        """A loop takes all its iterations, a condition its longest branch."""
        trips = 1
        if instruction.op == "while":
            known = self._module.trips(instruction)
            state.unknown_loops += known is None
            trips = 1 if known is None else known
        around = instruction.scope or around
        inner = max((self.run(name, around) for name in instruction.called()), key=lambda each: each.seconds)
        state.unknown_loops += inner.unknown_loops
        state.now += trips * inner.seconds
        state.events += [
            replace(event, seconds=event.seconds * trips, times=event.times * trips) for event in inner.events
        ]

    def _collective(self, instruction: Instruction, inside: str) -> tuple[str, Collective, str] | None:
        """The collective of an instruction: its key, and what of it this is.

        That is its "start", "done" or "whole"; or "carried", by a fusion that computes meanwhile and
        does not go on with one that another has started.
        """
        op = instruction.op
        base = op.removesuffix("-start").removesuffix("-done")
        if base in COLLECTIVES:
            if op.endswith("-done"):
                started = self._module.computations[inside][instruction.operands[0]]
                return started.name, collective(base, started, inside, 1), "done"
            step = "start" if op.endswith("-start") else "whole"
            return instruction.name, collective(base, instruction, inside, 1), step
        if op != "fusion":
            return None
        name = instruction.called()[0]
        body = self._module.computations[name]
        inner = next((i for i in body.values() if i.op in COLLECTIVES), None)
        if inner is None:
            return None
        targets = {i.target for i in body.values()}
        found = collective(inner.op, inner, name, 1)
        key = channel(inner, instruction.name)
        if _START in targets:
            return key, found, "start"
        if _DONE in targets:
            return key, found, "done"
        if not computes(instruction, body):
            return key, found, "whole"
        return None if key in self._started else (key, found, "carried")


class _State:
    """The time, and what is under way."""

    def __init__(self, costs: Costs) -> None:
        self.now = 0.0
        self.events: list[Event] = []
        self.unknown_loops = 0
        self._links_free = 0.0
        self._memory_free = 0.0
        self._network: dict[str, float] = {}
        self._copies: dict[str, float] = {}

    def spend(self, event: Event, memory: float = 0.0) -> None:
        """Lets an event's time go by; copies under way wait for the `memory` seconds it needs itself."""
        for name, end in self._copies.items():
            if end > self.now:
                self._copies[name] = end + memory
        if self._memory_free > self.now:
            self._memory_free += memory
        self.now += event.seconds
        if event.seconds > 0:
            self.events.append(event)

    def start_network(self, key: str, seconds: float) -> None:
        self._links_free = self._network[key] = max(self.now, self._links_free) + seconds

    def end_network(self, key: str, seconds: float) -> float:
        """Seconds to wait for a collective; one that was not started begins now."""
        if key not in self._network:
            self.start_network(key, seconds)
        return max(0.0, self._network.pop(key) - self.now)

    def start_copy(self, name: str, seconds: float) -> None:
        self._memory_free = self._copies[name] = max(self.now, self._memory_free) + seconds

    def end_copy(self, name: str) -> float:
        """Seconds to wait for a copy; 0 for one that began before this computation did."""
        return max(0.0, self._copies.pop(name, 0.0) - self.now)
