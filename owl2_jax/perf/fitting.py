"""What `owl2 fit` compiles: a configuration brought onto a slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from owl2_jax.config import RunConfig
from owl2_jax.model import flops
from owl2_jax.model.config import SPLASH_BLOCK, Owl2Config
from owl2_jax.parallel import mesh as meshes
from owl2_jax.parallel.chips import Topology
from owl2_jax.parallel.shardings import batch_ways, images_beside
from owl2_jax.perf.tpu_compile import Fit, compile_for, topology_devices
from owl2_jax.perf.workload import Shape, Workload, with_kernel
from owl2_jax.perf.workloads import build
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

    @property
    def rows_per_piece(self) -> int:
        """Rows that one part of the batch axes computes at a time."""
        return self.shape.rows // batch_ways(self.mesh) // self.accumulation

    @property
    def accumulation(self) -> int:
        """Parts that a batch is cut into; 1 of what does not train."""
        return self.train.accumulate_steps if self.what == "train" else 1

    @property
    def logits_at_a_time(self) -> int:
        """Positions of a row whose logits exist at a time in a training step; 0 for all of them."""
        chunk = self.train.loss_chunk
        return chunk if self.what == "train" and chunk < self.shape.targets else 0

    @property
    def attention(self) -> str:
        """The kernel of whole rows; "auto" is the best of the slice's chips."""
        return with_kernel(self.model, self.shape.length, self.mesh).attention

    @property
    def images_beside(self) -> bool:
        """Whether a training step moves no image between devices, see `make_trainer`."""
        return self.what == "train" and images_beside(self.shape.shards, self.mesh, self.accumulation)


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
    shape = Shape(data.rows, data.row_length, data.images, data.images_per_row, data.max_targets, data.shards)
    return Plan(what, model, train, shape, meshes.make_mesh(spec, topology_devices(topology)), topology)


def measure(plan: Plan) -> Result:
    """Compiles a plan. Raises `Owl2Error` for sizes that do not divide."""
    workload = build(plan.what, plan.model, plan.train, plan.shape, plan.mesh)
    counted = flops.total(workload.flops)
    # Of a mesh of one device nothing else says for which chip kernels are written.
    with jax.sharding.use_abstract_mesh(plan.mesh.abstract_mesh):
        lowered = workload.function.lower(*workload.arguments)
    fit = compile_for(
        lowered,
        plan.topology,
        workload.parts,
        counted.executed,
        counted.model,
        options(plan),
        workload.conditions,
    )
    return Result(plan, workload, fit)


def options(plan: Plan) -> dict[str, str]:
    """Of the TPU compiler; stand-ins on other platforms take none."""
    return dict(plan.train.compiler_options) if plan.mesh.devices.flat[0].platform == "tpu" else {}


def describe(plan: Plan) -> str:
    """What tells a plan from others of a search."""
    words = [
        f"remat={plan.model.remat}",
        f"{plan.rows_per_piece} rows at a time",
        f"accumulation {plan.accumulation}",
    ]
    if plan.mesh.shape[meshes.TENSOR] > 1:
        words.append(f"tensor={plan.mesh.shape[meshes.TENSOR]}")
    if plan.model.splash_block != SPLASH_BLOCK:
        words.append(f"tiles of {plan.model.splash_block}")
    if plan.what == "train" and plan.shape.images and plan.model.image_kv != "gather":
        words.append(f"images' keys and values by {plan.model.image_kv}")
    if plan.what == "train" and plan.shape.images and not plan.images_beside:
        words.append("images moved between devices")
    if plan.logits_at_a_time:
        words.append(f"logits of {plan.logits_at_a_time} at a time")
    if plan.model.scan_unroll > 1:
        words.append(f"{plan.model.scan_unroll} layers per iteration")
    words += [f"{name.removeprefix('xla_')}={value}" for name, value in plan.train.compiler_options.items()]
    return ", ".join(words)
