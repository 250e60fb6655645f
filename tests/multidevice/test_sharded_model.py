"""The model over eight fake devices computes what it computes on one."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from owl2_jax.model.owl2 import Owl2, logical_axes
from owl2_jax.parallel.axis_rules import activate
from owl2_jax.parallel.mesh import make_mesh
from owl2_jax.parallel.placement import check_images_beside, place
from owl2_jax.parallel.shardings import check_params, param_shardings, replicated
from owl2_jax.testing import tiny

MESHES = [
    {"data": 8},
    {"fsdp": 8},
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"dcn": 2, "fsdp": 4},
    {"fsdp": 4, "tensor": 2},
]
ROWS = 8
# Compiling is what takes the time here, and nothing runs long.
COMPILE_FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def config(image_kv="gather", model="owl2"):
    changes = {"remat": "context", "image_kv": image_kv, "vision.num_layers": 2}
    return tiny.tiny_config(**changes, **(tiny.OWL2_1 if model == "owl2_1" else {}))


@functools.cache
def inputs():
    """Eight rows, the images padded to eight."""
    values = tiny.tiny_inputs(config(), rows=ROWS)
    images = values["images"]
    values["images"] = np.concatenate(
        [images, np.zeros((ROWS - len(images), *images.shape[1:]), images.dtype)]
    )
    return values


def loss(config, params, batch, images_beside=False):
    labels = batch["labels"]
    arguments = {name: value for name, value in batch.items() if name != "labels"}
    logits = Owl2(config, images_beside=images_beside).apply({"params": params}, **arguments)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], jnp.maximum(labels[:, 1:], 0))
    return jnp.mean(losses * (labels[:, 1:] >= 0)), logits


@functools.cache
def params(model="owl2"):
    return tiny.tiny_params(config(model=model))


@functools.cache
def expected(model):
    run = jax.jit(
        jax.value_and_grad(functools.partial(loss, config("select", model)), has_aux=True),
        compiler_options=COMPILE_FAST,
    )
    (value, logits), gradients = run(params(model), inputs())
    return jax.device_get((value, logits, gradients))


def assert_as_on_one_device(value, logits, gradients, model="owl2"):
    want_value, want_logits, want_gradients = expected(model)
    real = inputs()["segment_ids"] > 0
    np.testing.assert_allclose(value, want_value, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(logits)[real], want_logits[real], atol=2e-4, rtol=1e-4)
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max() + 1e-6),
        gradients,
        want_gradients,
    )


@pytest.mark.parametrize(
    ("spec", "image_kv", "model"),
    [
        *((spec, "gather", "owl2") for spec in MESHES),
        (MESHES[2], "select", "owl2"),
        (MESHES[2], "product", "owl2"),
        (MESHES[2], "gather", "owl2_1"),
        (MESHES[4], "gather", "owl2_1"),
        (MESHES[4], "product", "owl2_1"),
    ],
    ids=str,
)
def test_logits_and_gradients_over_eight_devices_equal_one_device(spec, image_kv, model, capfd):
    mesh, axes = make_mesh(spec), logical_axes(config(model=model))
    check_params(axes, params(model), mesh)
    stored = param_shardings(axes, mesh)
    chosen = config(image_kv, model)
    step = activate(mesh)(jax.value_and_grad(functools.partial(loss, chosen), has_aux=True))
    run = jax.jit(step, out_shardings=((replicated(mesh), None), stored), compiler_options=COMPILE_FAST)
    (value, logits), gradients = run(jax.device_put(params(model), stored), place(inputs(), mesh))

    assert_as_on_one_device(value, logits, gradients, model)
    # The compiler says so when it finds nothing better than whole arrays on every device.
    assert "Involuntary full rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize("spec", MESHES, ids=str)
def test_images_beside_their_rows_are_moved_nowhere(spec):
    """Results are those of one device, and no collective is for images."""
    values = inputs()
    places = values["image_index"].shape[1]
    own = np.arange(ROWS * places).reshape(ROWS, places)
    there = values["image_index"] >= 0
    images = np.zeros((ROWS * places, *values["images"].shape[1:]), values["images"].dtype)
    images[own[there]] = values["images"][values["image_index"][there]]
    batch = values | {"images": images, "image_index": np.where(there, own, -1).astype(np.int32)}

    mesh, axes = make_mesh(spec), logical_axes(config())
    check_images_beside(batch["image_index"], len(images), mesh)
    stored = param_shardings(axes, mesh)
    step = jax.value_and_grad(functools.partial(loss, config(), images_beside=True), has_aux=True)
    run = jax.jit(
        activate(mesh)(step), out_shardings=((replicated(mesh), None), stored), compiler_options=COMPILE_FAST
    )
    compiled = run.lower(jax.device_put(params(), stored), place(batch, mesh)).compile()
    moving = jax.jit(activate(mesh)(jax.value_and_grad(functools.partial(loss, config()), has_aux=True)))
    moving = moving.lower(jax.device_put(params(), stored), place(batch, mesh)).compile(COMPILE_FAST)
    (value, logits), gradients = compiled(jax.device_put(params(), stored), place(batch, mesh))

    assert_as_on_one_device(value, logits, gradients)
    kinds = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
    moved = [
        [
            line
            for line in text.splitlines()
            if "_images_of_rows" in line and any(f" {kind}(" in line for kind in kinds)
        ]
        for text in (compiled.as_text(), moving.as_text())
    ]
    assert moved[0] == []
    assert moved[1]


def test_one_device_adds_no_constraint_to_the_program():
    mesh = make_mesh({}, jax.devices()[:1])

    def forward(params, batch):
        return loss(config(), params, batch)

    arguments = (params(), inputs())
    text = jax.jit(activate(mesh)(forward)).lower(*arguments).as_text()
    assert text == jax.jit(forward).lower(*arguments).as_text()
    assert "sharding" not in text
