"""What inference runs, with the shapes of its arguments: the engine's step over pages, in three uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format
from jax.sharding import Mesh

from owl2_jax.core.host_memory import collapse_into_huge_pages
from owl2_jax.core.tree import Params, PyTree
from owl2_jax.inference import step
from owl2_jax.inference.merged_projections import with_merged
from owl2_jax.inference.programs import step_options
from owl2_jax.inference.unrolled import UnrolledOwl2, unstack_layers
from owl2_jax.inference.weight_layouts import served_formats, served_names
from owl2_jax.model import flops, owl2, paged_kernels
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.pages import empty_pages
from owl2_jax.parallel import axis_rules, shardings
from owl2_jax.perf import synthetic
from owl2_jax.perf.workload import Shape, Workload, with_kernel
from owl2_jax.training.config import TrainConfig

# Tokens of a row between two looks at the host.
DECODE_WIDTH: Final = 64
# Positions of a page, and tokens of prompts beside those of answers in a step of a server.
PAGE_SIZE: Final = 16
CHUNK_TOKENS: Final = 512


def prefill(config: Owl2Config, train: TrainConfig, shape: Shape, mesh: Mesh) -> Workload:
    """Images encoded, and whole prompts run: the first token of each answer."""
    del train
    inputs = _prompts(config, shape)
    size = config.vision.image_size
    images = jax.ShapeDtypeStruct(
        (shape.images, size, size, 3), jnp.uint8, sharding=shardings.batch_sharding(mesh)
    )
    work = flops.batch_work(config, shape.rows, shape.length, shape.images, shape.images_per_row)
    return _workload(
        "prefill", config, shape, mesh, inputs, dataclasses.replace(work, logits=shape.rows), images
    )


def decode(config: Owl2Config, train: TrainConfig, shape: Shape, mesh: Mesh) -> Workload:
    """One token after another in every row, without asking the host in between: text, the likeliest token."""
    del train
    inputs = _answers(config, shape, shape.rows, shape.length - DECODE_WIDTH + 1, DECODE_WIDTH)
    inputs = inputs.replace(feature_rows=None)  # as the runner's
    work = flops.Work(shape.rows, 1, 0, 0, logits=shape.rows, keys=shape.length)
    return _workload("decode", config, shape, mesh, inputs, work)


def serve(config: Owl2Config, train: TrainConfig, shape: Shape, mesh: Mesh) -> Workload:
    """A server's step: a chunk of prompts and a token of every answer."""
    del train
    tokens = shape.rows + CHUNK_TOKENS
    inputs = _answers(config, shape, tokens, shape.length, 1)
    work = flops.Work(shape.rows, tokens // shape.rows, 0, 0, logits=shape.rows, keys=shape.length)
    return _workload("serve", config, shape, mesh, inputs, work)


def _workload(
    name: str, config: Owl2Config, shape: Shape, mesh: Mesh, inputs: step.StepInputs, work: flops.Work,
    images: jax.ShapeDtypeStruct | None = None,
) -> Workload:  # fmt: skip
    """The step on the given inputs; `images` are encoded first, else the pool of features stands ready."""
    owl, params = _served(config, mesh)
    whole = shardings.replicated(mesh)
    held = _held(config, shape, mesh)
    asked = _place(inputs, lambda leaf: whole)
    features = jax.ShapeDtypeStruct(
        (1, config.tokens_per_image, config.decoder.width), jnp.dtype(config.dtype), sharding=whole
    )
    seen = features if images is None else images
    width = int(inputs.steps[0])

    def run(params: Params, held: PyTree, seen: jax.Array, inputs: step.StepInputs) -> PyTree:
        pool = seen if images is None else owl.apply({"params": params}, seen, method="encode_images")
        pages, state, chosen, counts, _ = step.step(owl, width, params, *held, pool, inputs)
        return (pages, state), chosen, counts

    def materialize() -> tuple[PyTree, ...]:
        weights, kept = synthetic.params(config, params), synthetic.zeros(held)
        collapse_into_huge_pages(jax.tree.leaves((weights, kept)))  # as the model runner does
        shown = synthetic.zeros(features) if images is None else synthetic.images(images)
        return weights, kept, shown, jax.device_put(inputs, whole)

    places = jax.tree.map(lambda leaf: leaf.sharding, held)
    return Workload(
        name=name,
        function=jax.jit(
            axis_rules.activate(mesh)(run),
            donate_argnums=1,
            out_shardings=(places, None, None),
            compiler_options=step_options(mesh.devices.flat[0]),
        ),
        arguments=(params, held, seen, asked),
        parts={"parameters": params, "cache": held[0], "sampler": held[1]},
        flops=flops.forward_flops(with_kernel(config, shape.length, mesh), work),
        tokens=shape.rows if name == "decode" else len(inputs.tokens),
        carried=1,
        materialize=materialize,
        conditions=name != "decode",
    )


def _held(config: Owl2Config, shape: Shape, mesh: Mesh) -> tuple[PyTree, step.RowState]:
    """Pages for all rows at their longest, and the state of the rows."""
    platform = mesh.devices.flat[0].platform
    layout = paged_kernels.layout(platform, config.decoder.head_dim, PAGE_SIZE)
    pages = jax.eval_shape(lambda: empty_pages(config, shape.rows * _width(shape), PAGE_SIZE, layout))
    heads, whole = shardings.page_sharding(mesh, pages.axes), shardings.replicated(mesh)
    state = jax.eval_shape(lambda: step.empty_rows(shape.rows, config.decoder.vocab_size))
    return _place(pages, lambda leaf: heads), _place(state, lambda leaf: whole)


def _width(shape: Shape) -> int:
    return -(-shape.length // PAGE_SIZE)


def _inputs(config: Owl2Config, shape: Shape, tokens: int) -> step.StepInputs:
    """Rows that ask for nothing, each on pages of its own."""
    width = _width(shape)
    inputs = step.empty_inputs(tokens, shape.rows, shape.rows, width, config.decoder.vocab_size)
    tables = np.arange(shape.rows * width, dtype=np.int32).reshape(shape.rows, width)
    rows = np.arange(shape.rows, dtype=np.int32)
    return inputs.replace(
        tokens=np.ones(tokens, np.int32),
        limits=np.full(shape.rows, shape.length, np.int32),
        batch=inputs.batch.replace(block_tables=tables, count=np.array([shape.rows], np.int32)),
        sampler=inputs.sampler.replace(rows=rows),
    )


def _answers(config: Owl2Config, shape: Shape, tokens: int, length: int, steps: int) -> step.StepInputs:
    """Rows of `length` positions with one token each, and padding behind them."""
    inputs, rows = _inputs(config, shape, tokens), shape.rows
    numbers = np.full(tokens, rows, np.int32)
    numbers[:rows] = np.arange(rows)
    batch = inputs.batch.replace(
        rows=numbers,
        positions=np.where(numbers < rows, length - 1, 0).astype(np.int32),
        starts=np.arange(rows + 1, dtype=np.int32),
        lengths=np.full(rows, length, np.int32),
    )
    return inputs.replace(batch=batch, steps=np.array([steps], np.int32))


def _prompts(config: Owl2Config, shape: Shape) -> step.StepInputs:
    """Rows filled by their prompts, each with its images from the second position on."""
    rows, length, span = shape.rows, shape.length, config.tokens_per_image
    inputs = _inputs(config, shape, rows * length)
    features = np.full((rows, length), -1, np.int32)
    end = min(1 + shape.images_per_row * span, length) if shape.images else 1
    features[:, 1:end] = np.arange(end - 1) % (max(shape.images, 1) * span)
    batch = inputs.batch.replace(
        rows=np.repeat(np.arange(rows, dtype=np.int32), length),
        positions=np.tile(np.arange(length, dtype=np.int32), rows),
        starts=np.arange(rows + 1, dtype=np.int32) * length,
        lengths=np.full(rows, length, np.int32),
        prompt_lengths=np.full(rows, length, np.int32),
    )
    return inputs.replace(batch=batch, feature_rows=features.ravel())


def _served(config: Owl2Config, mesh: Mesh) -> tuple[owl2.Owl2, Params]:
    """The module that inference runs on such devices, and the shapes of its parameters."""
    shapes, axes = owl2.abstract_params(config), owl2.logical_axes(config)
    shardings.check_params(axes, shapes, mesh)
    if mesh.size == 1 and mesh.devices.flat[0].platform == "cpu":
        whole = shardings.replicated(mesh)
        return UnrolledOwl2(config), _place(jax.eval_shape(unstack_layers, shapes), lambda leaf: whole)
    stored = shardings.param_shardings(axes, mesh)
    if mesh.devices.flat[0].platform == "tpu":
        shapes, axes = jax.eval_shape(with_merged, shapes), served_names(config)
        stored = served_formats(shardings.param_shardings(axes, mesh), axes)
    return owl2.Owl2(config), jax.tree.map(_shape, shapes, stored)


def _shape(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding | Format) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _place(tree: PyTree, sharding_of: Callable[[PyTree], PyTree]) -> PyTree:
    return jax.tree.map(lambda leaf: _shape(leaf, sharding_of(leaf)), tree)
