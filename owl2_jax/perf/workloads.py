"""The true jitted functions with the shapes of their arguments, for `owl2 fit` and `owl2 bench`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from owl2_jax.core.errors import unknown_name
from owl2_jax.core.tree import PyTree
from owl2_jax.model import flops, owl2
from owl2_jax.model.config import Owl2Config
from owl2_jax.parallel import shardings
from owl2_jax.perf import serving_workloads, synthetic
from owl2_jax.perf.workload import Shape, Workload, with_kernel
from owl2_jax.training.config import TrainConfig
from owl2_jax.training.step import DeviceBatch
from owl2_jax.training.trainer import make_trainer


def build(name: str, config: Owl2Config, train: TrainConfig, shape: Shape, mesh: Mesh) -> Workload:
    """Builds a workload by name.

    Raises:
      UnknownNameError: no such workload.
      Owl2Error: sizes that do not divide over the mesh, or rows longer than the model allows.
    """
    if name not in BUILDERS:
        raise unknown_name("workload", name, BUILDERS)
    owl2.check_row_length(config, shape.length)
    accumulation = train.accumulate_steps if name == "train" else 1
    shardings.check_batch(shape.rows, mesh, accumulation=accumulation)
    shardings.check_batch(shape.images, mesh, "images", accumulation)
    return BUILDERS[name](config, train, shape, mesh)


def _train(config: Owl2Config, train: TrainConfig, shape: Shape, mesh: Mesh) -> Workload:
    """The trainer's step."""
    trainer = make_trainer(config, train, mesh, max_targets=shape.max_targets, shards=shape.shards)
    state, batch = trainer.abstract_state(), _batch(config, shape, mesh, train.accumulate_steps)
    counted = flops.train_flops(
        with_kernel(config, shape.length, mesh),
        flops.batch_work(
            config, shape.rows, shape.length, shape.images, shape.images_per_row, shape.max_targets
        ),
        lambda name: trainer.specs[name].trained,
        chunked_head=0 < train.loss_chunk < shape.targets,
    )

    def materialize() -> tuple[PyTree, ...]:
        return trainer.create(trainer.init(jax.random.key(0))), synthetic.batch(config, batch)

    return Workload(
        name="train",
        function=trainer.step,
        arguments=(state, batch),
        parts={"parameters": state.params, "optimiser": state.opt_state, "batch": batch},
        flops=counted,
        tokens=shape.rows * shape.length,
        carried=0,
        materialize=materialize,
    )


def _batch(config: Owl2Config, shape: Shape, mesh: Mesh, parts: int) -> DeviceBatch:
    sharding, size = shardings.batch_sharding(mesh, parts > 1), config.vision.image_size

    def array(count: int, *sizes: int, dtype: DTypeLike = jnp.int32) -> jax.ShapeDtypeStruct:
        leading = (parts, count // parts) if parts > 1 else (count,)
        return jax.ShapeDtypeStruct((*leading, *sizes), dtype, sharding=sharding)

    row, slots = (shape.rows, shape.length), (shape.rows, shape.images_per_row)
    return DeviceBatch(
        tokens=array(*row),
        positions=array(*row),
        segment_ids=array(*row),
        labels=array(*row),
        images=array(shape.images, size, size, 3, dtype=jnp.uint8),
        image_index=array(*slots),
        image_starts=array(*slots),
    )


BUILDERS: Final[dict[str, Callable[[Owl2Config, TrainConfig, Shape, Mesh], Workload]]] = {
    "train": _train,
    "prefill": serving_workloads.prefill,
    "decode": serving_workloads.decode,
    "serve": serving_workloads.serve,
}
