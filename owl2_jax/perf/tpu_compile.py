"""Will it fit, and how fast can it be: what a compiler for TPUs says about a program without a TPU.

The compiler that ships in `libtpu` runs on any x86 machine. It is given the true
jitted function and the shape of a slice, and says how much memory a chip needs;
its output names every collective and carries its estimates. What a chip can do per
second is in the table of `owl2_jax.parallel.chips`, so the longest of three times
(products, memory, network) bounds the step from below; `perf.forecast` says how
long it takes rather.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jax
import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import PyTree
from owl2_jax.parallel.chips import GIB, Topology
from owl2_jax.perf.forecast import Forecast, forecast
from owl2_jax.perf.hlo import read_module
from owl2_jax.perf.traffic import Traffic, collective_seconds, traffic
from owl2_jax.perf.versions import check_compiler

# "Used 20.14G of 15.75G hbm", and "required for HLO temporaries (832.00G) exceeds available HBM (15.75G)".
_TOO_MUCH: Final = (
    re.compile(r"[Uu]sed ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm"),
    re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"),
)
_UNITS: Final = {"": 1.0, "K": 2.0**10, "M": 2.0**20, "G": GIB, "T": 2.0**40}


def topology_devices(topology: Topology) -> list[jax.Device]:
    """Stand-ins for the chips of a slice, for a mesh that programs can be compiled for.

    The compiler takes every dimension for open unless it is told otherwise; a shift around
    a ring then has to cross the whole dimension, and nothing else runs meanwhile.

    Raises:
      Owl2Error: libtpu is not installed or not the one of this JAX, or it does not know the topology.
    """
    check_compiler()
    from jax.experimental import topologies

    wrap = [int(ring) for ring in topology.rings]
    wrap += [0] * (3 - len(wrap))
    # A host has 2 x 2 chips of a slice, and of one without so many, as v6e:1x1, what there is.
    host = [min(length, 2) for length in topology.shape[:2]] + [1]
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.name, wrap=wrap, chips_per_host_bounds=host
        )
        return list(found.devices)
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise Owl2Error(f"the TPU compiler does not know the topology {topology.name!r}: {reason}") from None


@dataclass(frozen=True)
class Memory:
    """Bytes on one chip.

    Attributes:
      capacity: what programs may use.
      arguments: state and batch; `parts` splits them.
      outputs: results that do not take an argument's place.
      temporary: activations, gradients, gathered weights.
      needed: the peak; for a program that does not fit, what the compiler asked for.
    """

    capacity: float
    arguments: float
    outputs: float
    temporary: float
    needed: float
    parts: dict[str, float]

    @property
    def fits(self) -> bool:
        """Whether it is within the chip's memory."""
        return self.needed <= self.capacity


@dataclass(frozen=True)
class Roofline:
    """Lower bounds of a step's time, in seconds.

    Attributes:
      products: executed FLOPs at the chip's peak.
      memory: bytes between memory and chip at its bandwidth.
      network: bytes that collectives bring in at the links' rate.
      waiting: the part of `network` during which the compiler lets nothing else run.
      model_flops: per chip.
      peak: FLOPs per second of a chip.
    """

    products: float
    memory: float
    network: float
    waiting: float
    model_flops: float
    peak: float

    @property
    def terms(self) -> dict[str, float]:
        """What can overlap at best."""
        return {"products": self.products + self.waiting, "memory": self.memory, "network": self.network}

    @property
    def step(self) -> float:
        """The longest of the terms."""
        return max(self.terms.values())

    @property
    def limit(self) -> str:
        """Name of the longest term."""
        return max(self.terms, key=self.terms.__getitem__)

    @property
    def mfu(self) -> float:
        """Model FLOPs over what the chip could have done in the time of the step, at most."""
        return self.model_flops / (self.peak * self.step)


@dataclass(frozen=True)
class Fit:
    """What is known about a program on a slice.

    Attributes:
      roofline, traffic, forecast: None when the program does not fit, or its text could not be read.
      compile_s: seconds that the compiler took.
      unread: why the text could not be read; empty otherwise.
    """

    topology: Topology
    memory: Memory
    roofline: Roofline | None
    traffic: Traffic | None
    compile_s: float
    forecast: Forecast | None = None
    unread: str = ""

    @property
    def seconds(self) -> float | None:
        """Of a step: the forecast, or the bound where nothing in the text is estimated."""
        if self.forecast is not None:
            return self.forecast.seconds
        return None if self.roofline is None else self.roofline.step


def compile_for(
    lowered: jax.stages.Lowered,
    topology: Topology,
    parts: dict[str, PyTree],
    executed_flops: float,
    model_flops: float,
    options: Mapping[str, str] | None = None,
    conditions: bool = True,
) -> Fit:
    """Compiles a lowered function and reads what came out.

    Args:
      lowered: `jitted.lower(...)` over a mesh of `topology_devices`.
      parts: {"parameters": tree, ...}: arguments with shardings, to split their memory.
      executed_flops, model_flops: of one call on all chips.
      options: of the compiler, by name.
      conditions: count the longest branch of every condition; else the one of false.
    """
    split = {name: bytes_per_device(tree) for name, tree in parts.items()}
    start = time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options=dict(options) if options else None)
    except jax.errors.JaxRuntimeError as error:
        memory = _memory_of_failure(str(error), topology, split)
        return Fit(topology, memory, None, None, time.perf_counter() - start)
    seconds = time.perf_counter() - start
    memory = _memory(compiled.memory_analysis(), topology, split)
    try:
        module = read_module(compiled.as_text())
        module = module if conditions else module.with_false_conditions()
        moved, ahead = traffic(module), forecast(module, topology)
    except Exception as error:  # whatever a text may hold: what was compiled for minutes is still told
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Fit(topology, memory, None, None, seconds, unread=reason)
    chips, seconds_of = topology.count, functools.partial(collective_seconds, topology=topology)
    roofline = Roofline(
        products=executed_flops / chips / topology.chip.flops,
        memory=moved.memory_bytes / topology.chip.bandwidth,
        network=sum(map(seconds_of, moved.collectives)),
        waiting=sum(seconds_of(c) for c in moved.collectives if c.blocks),
        model_flops=model_flops / chips,
        peak=topology.chip.flops,
    )
    return Fit(topology, memory, roofline, moved, seconds, ahead)


def _memory(analysis: Any, topology: Topology, parts: dict[str, float]) -> Memory:
    outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    code = analysis.generated_code_size_in_bytes
    arguments, temporary = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
    needed = arguments + outputs + temporary + code
    return Memory(topology.chip.memory, arguments, outputs, temporary, needed, parts)


def _memory_of_failure(message: str, topology: Topology, parts: dict[str, float]) -> Memory:
    """What the compiler asked for; a failure that is not about memory is raised again."""
    found = next(filter(None, (pattern.search(message) for pattern in _TOO_MUCH)), None)
    if found is None:
        raise Owl2Error(f"the TPU compiler failed: {message.splitlines()[0]}") from None
    needed, capacity = (float(found[i]) * _UNITS[found[i + 1]] for i in (1, 3))
    arguments = sum(parts.values())
    return Memory(capacity, arguments, 0.0, needed - arguments, needed, parts)


def bytes_per_device(tree: PyTree) -> float:
    """Bytes that one device holds of a tree of arrays or shapes with shardings."""
    return float(
        sum(
            np.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
            for leaf in jax.tree.leaves(tree)
        )
    )
