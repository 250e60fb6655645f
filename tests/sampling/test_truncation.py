"""Truncation against the same rules written with a sort."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl2_jax.sampling.params import Sampling
from owl2_jax.sampling.truncation import truncate
from tests.sampling.test_sampler import truncated

ROWS, V = 16, 203
TRUNCATE = jax.jit(truncate)
SETTINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.7, top_k=5),
    Sampling(temperature=1.0, top_k=1),
    Sampling(temperature=1.3, top_p=0.6),
    Sampling(temperature=1.0, top_p=0.01),
    Sampling(temperature=1.0, min_p=0.2),
    Sampling(temperature=2.0, top_k=30, top_p=0.8, min_p=0.05),
    Sampling(temperature=1.0, top_k=10**6),
]


def logits_of(rows: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, V)).astype(np.float32) * 3


def kept(logits: np.ndarray, settings: list[Sampling]) -> np.ndarray:
    """bool[S, V]: what is left, each row divided by its temperature before."""
    columns = [
        jnp.array([getattr(one, name) for one in settings], dtype)
        for name, dtype in (("top_k", jnp.int32), ("top_p", jnp.float32), ("min_p", jnp.float32))
    ]
    warm = logits / np.array([one.temperature for one in settings], np.float32)[:, None]
    return np.isfinite(np.asarray(TRUNCATE(warm, *columns)))


@pytest.mark.parametrize("setting", SETTINGS)
def test_truncation_equals_sorting(setting):
    logits = logits_of(ROWS)
    expected = [
        np.isfinite(truncated(row.astype(np.float64) / setting.temperature, setting)) for row in logits
    ]
    np.testing.assert_array_equal(kept(logits, [setting] * ROWS), expected)


def test_what_others_ask_for_changes_no_row():
    logits = logits_of(len(SETTINGS))
    together = kept(logits, SETTINGS)
    for row, setting in enumerate(SETTINGS):
        np.testing.assert_array_equal(kept(logits[row : row + 1], [setting])[0], together[row])
