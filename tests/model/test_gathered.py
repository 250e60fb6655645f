"""Products with weights that lie in pieces, on 8 devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl2_jax.core import axes
from owl2_jax.model import gathered
from owl2_jax.parallel import rules
from owl2_jax.parallel.mesh import make_mesh

NAMES = (axes.EMBED, axes.HEADS, axes.HEAD_DIM)
ROWS, WIDTH, HEADS, DIM = 32, 16, 4, 8


def arrays(dtype):
    keys = jax.random.split(jax.random.key(0))
    return (
        jax.random.normal(keys[0], (ROWS, WIDTH)).astype(dtype),
        jax.random.normal(keys[1], (WIDTH, HEADS, DIM)).astype(dtype),
    )


def whole(x, w):
    return x @ w.reshape(WIDTH, HEADS * DIM)


def loss(product):
    return lambda x, w: jnp.sum(jnp.square(product(x, w).astype(jnp.float32)))


def on_mesh(sizes, function, x, w):
    """Compiles over a mesh with the arrays where training has them."""
    mesh = make_mesh(sizes)
    places = (
        jax.NamedSharding(mesh, rules.compute_spec((axes.BATCH, None))),
        jax.NamedSharding(mesh, rules.storage_spec(NAMES)),
    )
    run = jax.jit(rules.activate(mesh)(function), in_shardings=places, out_shardings=(places[0], places[1]))
    return run.lower(x, w).compile(), [
        jax.device_put(a, place) for a, place in zip((x, w), places, strict=True)
    ]


@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"fsdp": 4, "tensor": 2}, {"fsdp": 2, "tensor": 4}])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_product_and_both_gradients_are_those_of_the_whole_weight(sizes, dtype):
    x, w = arrays(dtype)
    product = loss(lambda x, w: gathered.gathered_product(x, w, NAMES))
    compiled, placed = on_mesh(sizes, jax.grad(product, (0, 1)), x, w)
    expected = jax.grad(loss(whole), (0, 1))(x, w)
    tolerance = 1e-5 if dtype == jnp.float32 else 3e-2
    for found, right in zip(compiled(*placed), expected, strict=True):
        scale = np.abs(np.asarray(right, np.float32)).max()
        np.testing.assert_allclose(
            np.asarray(found, np.float32), np.asarray(right, np.float32), atol=tolerance * scale
        )


def test_gradient_is_cut_while_it_is_summed():
    x, w = arrays(jnp.float32)
    product = loss(lambda x, w: gathered.gathered_product(x, w, NAMES))
    text = on_mesh({"fsdp": 8}, jax.grad(product, (0, 1)), x, w)[0].as_text()
    assert " reduce-scatter(" in text
    assert " all-gather(" in text
    assert " all-reduce(" not in text


def test_where_nothing_is_gathered_the_plain_product_stands():
    asked = []

    def ask(mesh, rows, names=NAMES):
        with rules.activate(mesh):
            asked.append(gathered.is_gathered(rows, names))
        return asked[-1]

    assert ask(make_mesh({"fsdp": 8}), (8, 16))
    assert not ask(make_mesh({"fsdp": 8}), (3, 16))  # rows that are not cut
    assert not ask(make_mesh({"tensor": 8}), (8, 16))
    assert not ask(make_mesh({"data": 2, "fsdp": 4}), (8, 16))  # rows are cut along data too
    assert not ask(make_mesh({"fsdp": 8}), (8, 16), (axes.HIDDEN, axes.HEADS))
    assert not gathered.is_gathered((8, 16), NAMES)
