"""The network: four convolutions, two of them scaled by the question, and one choice among all answers."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

Array = jax.Array
_CHANNELS = 64


class Network(nn.Module):
    """Images and questions to logits of answers."""

    inputs: int
    answers: int

    @nn.compact
    def __call__(self, images: Array, questions: Array) -> Array:
        """uint8[N, 64, 64, 3] and int32[N, places] to float32[N, answers]."""
        asked = nn.relu(nn.Dense(128)(nn.Embed(self.inputs, 128)(questions).sum(axis=1)))
        x = images.astype(jnp.float32) / 127.5 - 1
        x = nn.relu(nn.Conv(32, (3, 3), (2, 2))(x))
        x = nn.relu(nn.Conv(_CHANNELS, (3, 3), (2, 2))(x))
        for stride in (2, 1):
            x = nn.Conv(_CHANNELS, (3, 3), (stride, stride))(x)
            scale, shift = jnp.split(nn.Dense(2 * _CHANNELS)(asked)[:, None, None, :], 2, axis=-1)
            x = nn.relu((1 + scale) * nn.GroupNorm(8)(x) + shift)
        seen = nn.relu(nn.Dense(256)(x.reshape(len(x), -1)))
        return nn.Dense(self.answers)(nn.relu(nn.Dense(256)(jnp.concatenate([seen, asked], axis=-1))))


class Data(NamedTuple):
    """Examples as arrays: uint8[N, 64, 64, 3], int32[N, places], int32[N]."""

    images: np.ndarray
    questions: np.ndarray
    labels: np.ndarray


def fit(data: Data, inputs: int, answers: int, *, steps: int, batch: int = 64, seed: int = 0):
    """Trains on batches drawn at random; returns a function from `Data` to the answers' numbers, int32[N]."""
    network = Network(inputs, answers)
    rng = np.random.default_rng(seed)
    first = [array[:1] for array in data[:2]]
    params = network.init(jax.random.key(seed), *first)
    optimizer = optax.adamw(optax.cosine_decay_schedule(1e-3, steps), weight_decay=1e-3)

    def loss(params, images, questions, labels):
        logits = network.apply(params, images, questions)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params, state, *arrays):
        updates, state = optimizer.update(jax.grad(loss)(params, *arrays), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        chosen = rng.integers(len(data.labels), size=batch)
        params, state = step(params, state, *(array[chosen] for array in data))

    @jax.jit
    def choose(images, questions):
        return network.apply(params, images, questions).argmax(axis=-1)

    def answer(asked: Data) -> np.ndarray:
        parts = [slice(i, i + batch) for i in range(0, len(asked.labels), batch)]
        found = [choose(asked.images[part], asked.questions[part]) for part in parts]
        return np.concatenate([np.asarray(part) for part in found])

    return answer
