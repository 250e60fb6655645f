"""Layers apart compute what stacked layers compute."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from owl2_jax.inference.flat_batch import Pieces
from owl2_jax.inference.program_sizes import StepSize
from owl2_jax.inference.unrolled import UnrolledOwl2, unstack_layers
from owl2_jax.model.owl2 import Owl2
from owl2_jax.model.pages import empty_pages
from owl2_jax.testing import tiny


def test_a_step_over_pages_equals_the_stacked_one(tiny_config, tiny_params):
    inputs, span = tiny.tiny_inputs(tiny_config, rows=3, length=20), tiny_config.tokens_per_image
    row = int(np.argmax((inputs["image_index"] >= 0).sum(1)))
    tokens, rows = inputs["tokens"][row], np.full(20, -1, np.int32)
    for image, start in zip(inputs["image_index"][row], inputs["image_starts"][row], strict=True):
        if image >= 0:
            rows[start : start + span] = np.arange(image * span, (image + 1) * span)
    assert (rows >= 0).any()
    size, table = StepSize(20, 1), np.arange(8, dtype=np.int32)[None]

    def piece(start: int, end: int):
        found = Pieces(np.array([start]), np.array([end]), tokens[start:end], None, np.array([12]))
        batch = jax.tree.map(jnp.asarray, found.batch(size, table))
        return np.resize(tokens[start:end], 20), np.resize(rows[start:end], 20), batch

    def run(owl: Owl2, params) -> tuple:
        def apply(*args, **kwargs):
            return owl.apply({"params": params}, *args, **kwargs)

        features = apply(inputs["images"], method="encode_images")
        pages, states = empty_pages(tiny_config, 8, 4), []
        for start, end in ((0, 12), (12, 20)):
            ids, images, batch = piece(start, end)
            hidden, pages = apply(ids, features, images, pages, batch, method="step")
            states.append(hidden[: end - start])
        return *states, pages.keys, pages.values, apply(states[-1], method="logits")

    stacked = jax.jit(run, static_argnums=0)(Owl2(tiny_config), tiny_params)
    unrolled = jax.jit(run, static_argnums=0)(UnrolledOwl2(tiny_config), unstack_layers(tiny_params))
    for one, other in zip(stacked, unrolled, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
