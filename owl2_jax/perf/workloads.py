"""The true jitted functions with the shapes of their arguments, for `owl2 fit` and `owl2 bench`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from owl2_jax.core.errors import unknown_name
from owl2_jax.core.host_memory import collapse_into_huge_pages
from owl2_jax.inference import generate, step
from owl2_jax.inference.sampler import SamplerInputs
from owl2_jax.inference.sampler_rows import SamplerRows
from owl2_jax.inference.unrolled import UnrolledOwl2, unstack_layers
from owl2_jax.model import flops, owl2, paged_kernels
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.pages import empty_pages
from owl2_jax.parallel import rules, shardings
from owl2_jax.perf import synthetic
from owl2_jax.training.config import TrainConfig
from owl2_jax.training.step import DeviceBatch
from owl2_jax.training.trainer import make_trainer

# Any id below the vocabulary does.
_EOS: Final = 2
# Tokens per slot between two looks at the host.
DECODE_WIDTH: Final = 64
# Of the engine's step: positions of a page, and tokens of prompts beside those of answers.
PAGE_SIZE: Final = 16
CHUNK_TOKENS: Final = 512


@dataclass(frozen=True)
class Shape:
    """Sizes of a call.

    Attributes:
      rows: B over all chips.
      length: T; for decoding the cache's length.
      images: M over all chips.
      images_per_row: I.
    """

    rows: int
    length: int
    images: int
    images_per_row: int


@dataclass(frozen=True)
class Workload:
    """A function ready to be lowered or run.

    Attributes:
      name: "train", "prefill" or "decode".
      function: jitted.
      arguments: shapes with shardings.
      parts: {"parameters": subtree, ...} of the arguments, for a table of memory.
      flops: by part of the model, of one call.
      tokens: positions that a call computes.
      carried: number of the argument that the first result replaces.
      materialize: makes arrays for `arguments`.
    """

    name: str
    function: Any
    arguments: tuple[Any, ...]
    parts: dict[str, Any]
    flops: dict[str, flops.Flops]
    tokens: int
    carried: int
    materialize: Callable[[], tuple[Any, ...]]


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
    trainer = make_trainer(config, train, mesh)
    state, batch = trainer.abstract_state(), _batch(config, shape, mesh, train.accumulate_steps)
    targets = min(train.max_targets or shape.length, shape.length)
    counted = flops.train_flops(
        config,
        _work(config, shape, train.max_targets),
        lambda name: trainer.specs[name].trained,
        chunked_head=0 < train.loss_chunk < targets,
    )

    def materialize() -> tuple[Any, ...]:
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


def _work(config: Owl2Config, shape: Shape, max_targets: int = 0) -> flops.Work:
    return flops.batch_work(config, shape.rows, shape.length, shape.images, shape.images_per_row, max_targets)


def _batch(config: Owl2Config, shape: Shape, mesh: Mesh, parts: int) -> DeviceBatch:
    sharding, size = shardings.batch_sharding(mesh, parts > 1), config.vision.image_size

    def array(count: int, *sizes: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
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


def _served(config: Owl2Config, mesh: Mesh) -> tuple[owl2.Owl2, Any]:
    """The module that inference runs on such devices, and the shapes of its parameters."""
    shapes, axes = owl2.abstract_params(config), owl2.logical_axes(config)
    shardings.check_params(axes, shapes, mesh)
    if mesh.size == 1 and mesh.devices.flat[0].platform == "cpu":
        whole = shardings.replicated(mesh)
        return UnrolledOwl2(config), _place(jax.eval_shape(unstack_layers, shapes), lambda leaf: whole)
    stored = shardings.param_shardings(axes, mesh)
    return owl2.Owl2(config), jax.tree.map(_shape, shapes, stored)


def _shape(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _place(tree: Any, sharding_of: Callable[[Any], Any]) -> Any:
    return jax.tree.map(lambda leaf: _shape(leaf, sharding_of(leaf)), tree)


def _slots(owl: owl2.Owl2, shape: Shape, mesh: Mesh) -> Any:
    rows, positions = shardings.batch_sharding(mesh), shardings.cache_shardings(mesh)["keys"]
    shapes = jax.eval_shape(lambda: generate.empty_slots(owl, shape.rows, shape.length))
    return _place(shapes, lambda leaf: positions if leaf.ndim == 5 else rows)


def _prefill(config: Owl2Config, train: TrainConfig, shape: Shape, mesh: Mesh) -> Workload:
    """Images encoded and prompts run into free slots, the first token chosen."""
    del train
    owl, params = _served(config, mesh)
    slots, size = _slots(owl, shape, mesh), config.vision.image_size
    rows = shardings.batch_sharding(mesh)
    arrivals = _place(
        jax.eval_shape(functools.partial(_arrivals, shape, config.decoder.vocab_size)), lambda leaf: rows
    )
    images = jax.ShapeDtypeStruct((shape.images, size, size, 3), jnp.uint8, sharding=rows)

    def run(params: Any, slots: Any, images: jax.Array, arrivals: Any) -> Any:
        pool = owl.apply({"params": params}, images, method="encode_images")
        return generate.prefill(owl, params, slots, pool, arrivals)

    counted = flops.forward_flops(config, dataclasses.replace(_work(config, shape), logits=shape.rows))

    def materialize() -> tuple[Any, ...]:
        return (
            synthetic.params(config, params),
            synthetic.zeros(slots),
            synthetic.images(images),
            jax.device_put(_arrivals(shape, config.decoder.vocab_size), rows),
        )

    return Workload(
        name="prefill",
        function=jax.jit(rules.activate(mesh)(run), donate_argnums=1, out_shardings=(_places(slots), None)),
        arguments=(params, slots, images, arrivals),
        parts={"parameters": params, "cache": slots.cache},
        flops=counted,
        tokens=shape.rows * shape.length,
        carried=1,
        materialize=materialize,
    )


def _arrivals(shape: Shape, vocab_size: int) -> generate.Arrivals:
    """Prompts that fill their rows, each with its images from the second position on."""
    rows = shape.rows
    return generate.Arrivals(
        prompts=generate.Prompts(
            tokens=jnp.ones((rows, shape.length), jnp.int32),
            lengths=jnp.full((rows,), shape.length, jnp.int32),
            image_index=jnp.zeros((rows, shape.images_per_row), jnp.int32),
            image_starts=jnp.ones((rows, shape.images_per_row), jnp.int32),
        ),
        slots=jnp.arange(rows, dtype=jnp.int32),
        limits=jnp.full((rows,), shape.length, jnp.int32),
        settings=_greedy(rows, vocab_size),
    )


def _greedy(rows: int, vocab_size: int) -> SamplerInputs:
    """What greedy requests ask of the sampler."""
    everyone = np.arange(rows)
    inputs = SamplerRows(rows, vocab_size, _EOS).take(everyone, np.zeros(rows, np.int32), rows)
    return jax.tree.map(jnp.asarray, inputs)


def _decode(config: Owl2Config, train: TrainConfig, shape: Shape, mesh: Mesh) -> Workload:
    """One token in every slot, the way the engine's decode loop runs it."""
    del train
    owl, params = _served(config, mesh)
    slots = _slots(owl, shape, mesh)
    wanted = jax.ShapeDtypeStruct((shape.rows,), jnp.bool_, sharding=shardings.batch_sharding(mesh))
    count = jax.ShapeDtypeStruct((), jnp.int32, sharding=shardings.replicated(mesh))

    def run(params: Any, slots: Any, wanted: jax.Array, max_steps: jax.Array, enough: jax.Array) -> Any:
        allowed = jnp.zeros(slots.settings.allowed.shape, jnp.uint32)
        return generate.decode(owl, params, slots, wanted, max_steps, enough, allowed, width=DECODE_WIDTH)

    def materialize() -> tuple[Any, ...]:
        weights = synthetic.params(config, params)
        running = synthetic.running_slots(slots, shape.length - DECODE_WIDTH)
        greedy = _greedy(shape.rows, config.decoder.vocab_size)
        running = running.replace(settings=jax.device_put(greedy, wanted.sharding))
        cache = running.cache.keys, running.cache.values
        collapse_into_huge_pages(jax.tree.leaves((weights, cache)))  # as the engine does
        every = (jnp.ones((shape.rows,), bool), jnp.int32(DECODE_WIDTH), jnp.int32(0))
        places = (wanted.sharding, count.sharding, count.sharding)
        return weights, running, *jax.device_put(every, places)

    work = flops.Work(shape.rows, 1, 0, 0, logits=shape.rows, keys=shape.length)
    return Workload(
        name="decode",
        function=jax.jit(
            rules.activate(mesh)(run), donate_argnums=1, out_shardings=(_places(slots), None, None)
        ),
        arguments=(params, slots, wanted, count, count),
        parts={"parameters": params, "cache": slots.cache},
        flops=flops.forward_flops(config, work),
        tokens=shape.rows,
        carried=1,
        materialize=materialize,
    )


def _serve(config: Owl2Config, train: TrainConfig, shape: Shape, mesh: Mesh) -> Workload:
    """The engine's step over pages: a chunk of prompts and a token of every answer."""
    del train
    platform = "tpu" if mesh.devices.flat[0].platform == "tpu" else "cpu"
    owl, params = _served(config, mesh)
    whole = shardings.replicated(mesh)
    width = -(-shape.length // PAGE_SIZE)
    pages = jax.eval_shape(
        lambda: empty_pages(config, shape.rows * width, PAGE_SIZE, paged_kernels.layout(platform))
    )
    pages = _place(pages, lambda leaf: shardings.page_sharding(mesh, combined=platform == "tpu"))
    vocabulary, tokens = config.decoder.vocab_size, shape.rows + CHUNK_TOKENS
    state = _place(jax.eval_shape(lambda: step.empty_rows(shape.rows, vocabulary)), lambda leaf: whole)
    inputs = _place(step.empty_inputs(tokens, shape.rows, shape.rows, width, vocabulary), lambda leaf: whole)
    images = max(shape.images, 1)
    pool = jax.ShapeDtypeStruct(
        (images, config.tokens_per_image, config.decoder.width), jnp.dtype(config.dtype), sharding=whole
    )

    def run(params: Any, pages: Any, state: Any, pool: jax.Array, inputs: Any) -> Any:
        return step.step(owl, 1, params, pages, state, pool, inputs)

    def materialize() -> tuple[Any, ...]:
        held = (synthetic.params(config, params), synthetic.zeros(pages), synthetic.zeros(state))
        asked = step.empty_inputs(tokens, shape.rows, shape.rows, width, vocabulary)
        return *held, synthetic.zeros(pool), jax.device_put(asked, whole)

    work = flops.Work(shape.rows, tokens // shape.rows, 0, 0, logits=shape.rows, keys=shape.length)
    return Workload(
        name="serve",
        function=jax.jit(rules.activate(mesh)(run), donate_argnums=(1, 2)),
        arguments=(params, pages, state, pool, inputs),
        parts={"parameters": params, "cache": pages, "sampler": state},
        flops=flops.forward_flops(config, work),
        tokens=tokens,
        carried=1,
        materialize=materialize,
    )


def _places(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


BUILDERS: Final[dict[str, Callable[[Owl2Config, TrainConfig, Shape, Mesh], Workload]]] = {
    "train": _train,
    "prefill": _prefill,
    "decode": _decode,
    "serve": _serve,
}
