"""What `owl2 fit` compiles: a configuration brought onto a slice, and the search over batch and remat."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from owl2_jax.config import RunConfig
from owl2_jax.model import attention_kernels, flops, remat
from owl2_jax.model.config import Owl2Config
from owl2_jax.parallel import mesh as meshes
from owl2_jax.parallel.chips import Topology
from owl2_jax.parallel.shardings import batch_ways
from owl2_jax.perf.tpu_compile import Fit, compile_for, topology_devices
from owl2_jax.perf.workloads import Shape, Workload, build
from owl2_jax.training.config import TrainConfig


@dataclass(frozen=True)
class Plan:
    """One program to compile."""

    what: str
    model: Owl2Config
    train: TrainConfig
    shape: Shape
    mesh: Mesh
    topology: Topology
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of the compiler

    @property
    def rows_per_piece(self) -> int:
        """Rows that one part of the batch axes computes at a time."""
        return self.shape.rows // batch_ways(self.mesh) // self.accumulation

    @property
    def accumulation(self) -> int:
        return self.train.accumulate_steps if self.what == "train" else 1


@dataclass(frozen=True)
class Result:
    """A compiled plan."""

    plan: Plan
    workload: Workload
    fit: Fit

    @property
    def rank(self) -> tuple[bool, float]:
        """Smaller is better: fits, then the least time per row by the forecast."""
        seconds = self.fit.seconds
        if seconds is None or not self.fit.memory.fits:
            return True, self.fit.memory.needed
        return False, seconds / self.plan.shape.rows


def make_plan(what: str, config: RunConfig, topology: Topology, mesh: str | None, is_file: bool) -> Plan:
    """Brings a configuration onto a slice.

    The mesh is the given one, else that of a config file, else fully sharded
    parameters for training and the tensor axis alone for inference.

    Raises:
      Owl2Error: a mesh that does not fit the slice.
    """
    spec: str | Mapping[str, int] = {meshes.FSDP: -1} if what == "train" else {meshes.TENSOR: -1}
    if mesh is not None:
        spec = mesh
    elif is_file and what == "train":
        spec = config.mesh
    model, data, train = config.model, config.data, config.train
    if what != "train":
        # Parameters as they are served; nothing goes backward.
        model = model.replace(param_dtype=model.dtype, remat="none")
    if model.attention == "auto":
        width = model.decoder.head_dim
        model = model.replace(attention=attention_kernels.best("tpu", data.row_length, model.dtype, width))
    shape = Shape(data.rows, data.row_length, data.images, data.images_per_row)
    return Plan(what, model, train, shape, meshes.make_mesh(spec, topology_devices(topology)), topology)


def measure(plan: Plan) -> Result:
    """Compiles a plan. Raises `Owl2Error` for sizes that do not divide."""
    workload = build(plan.what, plan.model, plan.train, plan.shape, plan.mesh)
    counted = flops.total(workload.flops)
    lowered = workload.function.lower(*workload.arguments)
    return Result(
        plan,
        workload,
        compile_for(lowered, plan.topology, workload.parts, counted.executed, counted.model, plan.options),
    )


def search(plan: Plan) -> list[Result]:
    """Tries remat policies from the cheapest, each with ever more rows at a time until it does not fit."""
    results = []
    for family in _families(plan):
        for candidate in family:
            print(f"compiling {describe(candidate)}", file=sys.stderr, flush=True)
            results.append(measure(candidate))
            if not results[-1].fit.memory.fits:
                break
    return results


def describe(plan: Plan) -> str:
    return f"remat={plan.model.remat}, {plan.rows_per_piece} rows at a time, accumulation {plan.accumulation}"


def _families(plan: Plan) -> Iterator[list[Plan]]:
    """Per remat policy, plans with 1, 2, 4, ... rows at a time; hopeless ones are left out."""
    if plan.what != "train":
        sizes = [batch_ways(plan.mesh) * 2**power for power in range(12)]
        yield [_with_rows(plan, rows) for rows in sizes]
        return
    whole = plan.shape.rows // batch_ways(plan.mesh)
    for policy in remat.POLICIES:
        model = plan.model.replace(remat=policy)
        family = [
            dataclasses.replace(
                plan, model=model, train=dataclasses.replace(plan.train, accumulate_steps=whole // rows)
            )
            for rows in (2**power for power in range(12))
            if rows <= whole and whole % rows == 0
        ]
        yield [candidate for candidate in family if _least_memory(candidate) < plan.topology.chip.memory]


def _with_rows(plan: Plan, rows: int) -> Plan:
    images = round(plan.shape.images / plan.shape.rows * rows)
    return dataclasses.replace(plan, shape=dataclasses.replace(plan.shape, rows=rows, images=images))


def _least_memory(plan: Plan) -> float:
    """Bytes that a plan needs at the very least: state, gradients and the kept activations of the decoder."""
    decoder = plan.model.decoder
    width, hidden = decoder.width, decoder.mlp_dim
    kept = {
        "none": 6 * width + 3 * hidden,
        "dots": 5 * width + 2 * hidden,
        "attention_mlp": 5 * width + hidden,
        "attention": 5 * width,
        "context": 2 * width,
        "full": width,
    }[plan.model.remat]
    tokens = plan.rows_per_piece * plan.shape.length
    tensor = plan.mesh.shape[meshes.TENSOR]
    return tokens * decoder.num_layers * kept * np.dtype(plan.model.dtype).itemsize / tensor
