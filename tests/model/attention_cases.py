"""Queries, keys and values, and what every attention kernel must make of them."""

import jax
import jax.numpy as jnp
import numpy as np

from owl2_jax.model import attention_kernels


def case(batch=2, length=256, heads=4, kv_heads=2, width=32, seed=0):
    """Queries, keys, values and three packed segments with padding after them."""
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = [(batch, length, count, width) for count in (heads, kv_heads, kv_heads)]
    q, k, v = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    segments = np.zeros((batch, length), np.int32)
    for row in range(batch):
        borders = [0, 70 + row, 130, length - 20 * row]
        for number in range(3):
            segments[row, borders[number] : borders[number + 1]] = number + 1
    return q, k, v, jnp.asarray(segments)


def outputs_and_gradients(kernel, q, k, v, segments):
    weights = jnp.where(segments > 0, 1.0, 0.0)[:, :, None, None] * jnp.cos(jnp.arange(q.shape[-1]))

    def loss(q, k, v):
        context = kernel(q, k, v, segments)
        return (context * weights).sum(), context * (segments > 0)[:, :, None, None]

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)


def assert_equal_to_reference(kernel, q, k, v, segments, tolerance=2e-5):
    got = outputs_and_gradients(kernel, q, k, v, segments)
    want = outputs_and_gradients(attention_kernels.xla, q, k, v, segments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance), got, want)
