"""What is fixed during a run: model, spec of the parameters, optimiser, mesh, compiled step.

Apart from the loop, so that a step can be compiled or timed without the input
pipeline and checkpoints.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax

from owl2_jax.core.kept import kept
from owl2_jax.core.tree import Params, PyTree
from owl2_jax.model import flops
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.owl2 import Owl2, abstract_params, init_params, logical_axes
from owl2_jax.parallel import axis_rules, shardings
from owl2_jax.parallel.chips import chip_of, fusion_options
from owl2_jax.training import param_groups
from owl2_jax.training.config import TrainConfig
from owl2_jax.training.losses import LossSums
from owl2_jax.training.optimizer import make_optimizer
from owl2_jax.training.state import TrainState, create_state, fingerprint
from owl2_jax.training.step import DeviceBatch, batch_loss, train_step


@dataclass(frozen=True)
class Trainer:
    """What is fixed during a run.

    Attributes:
      datasets: names of the sets that `dataset_ids` of the batches count.
      max_targets: most supervised positions of a row of the batches; 0 for any number.
      images_beside: whether the step takes the images of a device's rows from that device alone.
      specs: how each leaf trains.
      shapes: the parameters as `jax.ShapeDtypeStruct`.
      state_shardings: a sharding at each leaf of the state.
      init: key to random parameters on the mesh.
      create: parameters on the mesh to the state at step 0; they are donated.
      step: (state, batch) to (state, metrics); the state is donated.
      fingerprint: state to sums of its bits, see `state.fingerprint`.
    """

    model: Owl2
    config: TrainConfig
    datasets: tuple[str, ...]
    max_targets: int
    images_beside: bool
    specs: dict[str, param_groups.ParamSpec]
    shapes: Params
    optimizer: optax.GradientTransformationExtraArgs
    mesh: jax.sharding.Mesh
    state_shardings: TrainState
    init: Callable[[jax.Array], Params]
    create: Callable[[Params], TrainState]
    step: jax.stages.Wrapped  # (TrainState, DeviceBatch) to (TrainState, StepMetrics)
    fingerprint: Callable[[TrainState], PyTree]

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        create = functools.partial(create_state, specs=self.specs, optimizer=self.optimizer)
        shapes = jax.eval_shape(create, self.shapes)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            self.state_shardings,
        )

    def step_flops(self, batch: DeviceBatch) -> float:
        """Model FLOPs of a step on batches of this shape, vision encoder and abstractor counted."""
        rows, length = math.prod(batch.tokens.shape[:-1]), batch.tokens.shape[-1]
        config = self.model.config
        images, images_per_row = math.prod(batch.images.shape[:-3]), batch.image_index.shape[-1]
        work = flops.batch_work(config, rows, length, images, images_per_row, self.max_targets)
        parts = flops.train_flops(config, work, lambda name: self.specs[name].trained)
        return sum(part.model for part in parts.values())


def make_trainer(
    model_config: Owl2Config,
    config: TrainConfig,
    mesh: jax.sharding.Mesh,
    datasets: tuple[str, ...] = (),
    max_targets: int = 0,
    shards: int = 1,
) -> Trainer:
    """Plans the parameters and prepares the step.

    Args:
      datasets: names of the sets that `dataset_ids` of the batches count; empty
        when batches have none.
      max_targets: `data.max_targets` of the batches.
      shards: `data.shards` of the batches, of which each has its images for itself.

    A process that does one run after another (`core.kept`) compiles once for
    runs that differ in their seed, their start or their profile alone.

    Raises:
      Owl2Error: groups or sizes that do not fit.
    """
    alike = dataclasses.replace(config, start_from=None, profile_steps=None)
    if model_config.lora is None:  # whose dropout has the seed in the step
        alike = dataclasses.replace(alike, seed=0)
    beside = shardings.images_beside(shards, mesh, config.accumulate_steps)
    key = ("trainer", repr(model_config), repr(alike), mesh, datasets, max_targets, beside)
    made = kept(key, lambda: _make_trainer(model_config, alike, mesh, datasets, max_targets, beside))
    return dataclasses.replace(made, config=config)


def _make_trainer(
    model_config: Owl2Config,
    config: TrainConfig,
    mesh: jax.sharding.Mesh,
    datasets: tuple[str, ...],
    max_targets: int,
    images_beside: bool,
) -> Trainer:
    model, shapes, axes = Owl2(model_config), abstract_params(model_config), logical_axes(model_config)
    shardings.check_params(axes, shapes, mesh)
    specs = param_groups.assign_groups(shapes, config)
    optimizer = make_optimizer(config, specs)
    create = functools.partial(create_state, specs=specs, optimizer=optimizer)
    stored = shardings.param_shardings(axes, mesh)
    places = shardings.like_params(jax.eval_shape(create, shapes), stored, shapes, mesh)
    step = functools.partial(
        train_step,
        model=model.clone(images_beside=images_beside),
        optimizer=optimizer,
        specs=specs,
        config=config,
        num_datasets=len(datasets),
        max_targets=max_targets,
    )
    return Trainer(
        model=model,
        config=config,
        datasets=datasets,
        max_targets=max_targets,
        images_beside=images_beside,
        specs=specs,
        shapes=shapes,
        optimizer=optimizer,
        mesh=mesh,
        state_shardings=places,
        init=jax.jit(
            functools.partial(init_params, model_config),
            out_shardings=places.params,
            compiler_options=_compile_fast(mesh),
        ),
        create=jax.jit(create, out_shardings=places, donate_argnums=0),
        step=jax.jit(
            axis_rules.activate(mesh)(step),
            in_shardings=(places, shardings.batch_sharding(mesh, config.accumulate_steps > 1)),
            out_shardings=(places, shardings.replicated(mesh)),
            donate_argnums=0,
            compiler_options=_compile_well(mesh, config),
        ),
        fingerprint=jax.jit(
            functools.partial(fingerprint, specs=specs),
            out_shardings=shardings.replicated(mesh),
            compiler_options=_compile_fast(mesh),
        ),
    )


def _compile_well(mesh: jax.sharding.Mesh, config: TrainConfig) -> dict[str, Any]:
    """For the step: left alone, the TPU compiler lets every chip wait while gradients are summed.

    It spreads the sum of a gradient over the products that follow only where that
    sum stands alone, so none are joined. Gathers of small weights, and on a
    three-dimensional torus all gathers, it would write as sums into zeros,
    which move twice the bytes. Fusions get the fast memory that is best on the chip.
    """
    device = mesh.devices.flat[0]
    if device.platform != "tpu":
        return {}
    options = fusion_options(device)
    if mesh.size > 1 and chip_of(device) is not None:
        options |= {
            "xla_enable_async_all_reduce": "true",
            "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": "true",
            "xla_jf_crs_combiner_threshold_count": "1",
            "xla_tpu_prefer_async_allgather_to_allreduce": "true",
        }
    return options | config.compiler_options


def _compile_fast(mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """For what runs rarely: on a CPU, compiling the initialisation well would take most of a start."""
    return {"xla_backend_optimization_level": 0} if mesh.devices.flat[0].platform == "cpu" else {}


def make_loss(trainer: Trainer, num_datasets: int) -> Callable[[Params, DeviceBatch], LossSums]:
    """(params, batch) to `LossSums`, compiled; the batch has no axis of accumulation."""

    def loss(params: Params, batch: DeviceBatch) -> LossSums:
        return batch_loss(
            params, batch, trainer.model, trainer.config, num_datasets, max_targets=trainer.max_targets
        )

    return jax.jit(
        axis_rules.activate(trainer.mesh)(loss),
        in_shardings=(trainer.state_shardings.params, shardings.batch_sharding(trainer.mesh)),
        out_shardings=shardings.replicated(trainer.mesh),
    )
