"""The few programs of a model runner, and the model as they take it.

They are shared by all runners of a process, so that a second one of a model compiles nothing.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from owl2_jax.core.host_memory import collapse_into_huge_pages
from owl2_jax.core.tree import Params
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.packed import Layout, unpack
from owl2_jax.inference.step import RowState, empty_rows, step
from owl2_jax.inference.unrolled import UnrolledOwl2, unstack_layers
from owl2_jax.model.owl2 import Owl2
from owl2_jax.model.pages import PagedBatch, Pages, copy_pages, empty_pages
from owl2_jax.parallel.chips import fusion_options
from owl2_jax.sampling.sampler import Chosen, load_row

Array = jax.Array


def prepare(model: LoadedModel) -> tuple[Owl2, dict[str, Any]]:
    """The module to run and its parameters.

    On a CPU the layers are taken apart: a step of the layer scan copies the
    weights that it slices, which costs a third of a decode step there.
    """
    config, pieces = model.config.replace(remat="none"), model.tokenizer.vocab_size
    if model.mesh is None and jax.default_backend() == "cpu":
        params = jax.tree.map(jnp.asarray, unstack_layers(model.params))
        collapse_into_huge_pages(jax.tree.leaves(params))
        return UnrolledOwl2(config, pieces), params
    return Owl2(config, pieces), model.params


def packed_step(
    owl: Owl2, width: int, layout: Layout, params: Any, pages: Pages, state: RowState, pool: Array,
    buffer: Array, large: dict[str, Array],
) -> tuple[Pages, RowState, Chosen, Array, Chosen | None]:  # fmt: skip
    """`step.step` with its small inputs in one buffer; a step for prompts chooses one token of a row."""
    inputs = unpack(buffer, layout)
    inputs = inputs.replace(sampler=inputs.sampler.replace(**large))
    return step(owl, width if inputs.targets is None else 1, params, pages, state, pool, inputs)


def encode_images(
    owl: Owl2, reads: bool, params: Params, pool: Array, images: Array, rows: Array
) -> tuple[Array, Array | None]:
    """Encodes images into rows of the feature pool.

    Args:
      reads: whether to tell what the queries read.
      pool: dtype[F, Q + 1, D].
      images: uint8[M, H, W, 3].
      rows: int32[M]; F (past the end) for an image that pads the batch.

    Returns:
      The pool, and float32[M, Q, P], how the queries spread over the patches: the mean over layers
      and heads, sum 1.
    """
    variables, reading = {"params": params}, None
    if reads:
        # The encoder runs by itself: its own attention is large, and not asked for.
        patches = owl.apply(variables, images, method="see")
        features, state = owl.apply(variables, patches, method="read", mutable=["intermediates"])
        (sown,) = state["intermediates"]["abstractor"]["layers"]["attention"]["attention"]
        reading = sown.mean((0, 2))[:, :, owl.config.abstractor.num_queries + 1 :]
        reading = reading / reading.sum(-1, keepdims=True)
    else:
        features = owl.apply(variables, images, method="encode_images")
    return pool.at[rows].set(features.astype(pool.dtype), mode="drop"), reading


def look(
    owl: Owl2, params: Params, pages: Pages, pool: Array, tokens: Array, features: Array, batch: PagedBatch
) -> tuple[Pages, Array, Array]:
    """Runs tokens int32[T] of one row, and tells what they pay attention to.

    Returns:
      Pages, float32[L, T, W * page_size], the mean over heads, and the largest distance of a row from
      the sum 1.
    """
    (_, pages), state = owl.apply(
        {"params": params}, tokens, pool, features, pages, batch, method="step", mutable=["intermediates"]
    )
    layers = state["intermediates"]["decoder"]["layers"]
    if "attention" in layers:  # of a scan over layers, else there is one entry for each
        (attention,) = layers["attention"]["attention"]
    else:
        attention = jnp.stack([layers[str(n)]["attention"]["attention"][0] for n in range(len(layers))])
    return pages, attention.mean(1), jnp.max(jnp.abs(attention.sum(-1) - 1))


def step_options(device: jax.Device) -> dict[str, str]:
    """Of the compiler, for steps over pages on such devices.

    Left alone, the TPU's cuts the MLP's last product into one per neighbour, to move sums meanwhile. The
    parts run at three quarters of the peak and are cut, filled and rounded once more each, which takes longer
    than the whole product and its sum.
    """
    if device.platform != "tpu":
        return {}
    return {
        "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
        **fusion_options(device, over_pages=True),
    }


@functools.cache
def step_program(device: jax.Device) -> jax.stages.Wrapped:
    """`packed_step`, compiled for such devices."""
    return jax.jit(
        packed_step,
        static_argnums=(0, 1, 2),
        donate_argnums=(4, 5),
        compiler_options=step_options(device),
    )


ENCODE_IMAGES = jax.jit(encode_images, static_argnums=(0, 1), donate_argnums=3)
LOOK = jax.jit(look, static_argnums=0, donate_argnums=2)
COPY_PAGES = jax.jit(copy_pages, static_argnums=3, donate_argnums=0)
LOAD_ROW = jax.jit(load_row, donate_argnums=0)
EMPTY_PAGES = jax.jit(empty_pages, static_argnums=(0, 1, 2, 3))
EMPTY_ROWS = jax.jit(empty_rows, static_argnums=(0, 1))
