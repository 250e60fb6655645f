"""Sampling rules against the same rules written with a sort."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.sampling import Sampling, choose, penalize, stack_settings, truncate


def by_sorting(logits: np.ndarray, setting: Sampling) -> np.ndarray:
    """bool[V]: tokens that are left, one rule after the other as Hugging Face applies them."""
    logits = logits.astype(np.float64) / setting.temperature
    keep = np.ones(len(logits), bool)
    order = np.argsort(-logits)
    if setting.top_k:
        keep[order[setting.top_k :]] = False
    probabilities = np.where(keep, np.exp(logits - logits.max()), 0)
    probabilities /= probabilities.sum()
    if setting.top_p < 1:
        before = np.cumsum(probabilities[order]) - probabilities[order]
        keep[order[before >= setting.top_p]] = False
    keep &= probabilities >= setting.min_p * probabilities.max()
    return keep


@pytest.mark.parametrize(
    "setting",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.7, top_k=5),
        Sampling(temperature=1.0, top_k=1),
        Sampling(temperature=1.3, top_p=0.6),
        Sampling(temperature=1.0, top_p=0.01),
        Sampling(temperature=1.0, min_p=0.2),
        Sampling(temperature=2.0, top_k=30, top_p=0.8, min_p=0.05),
        Sampling(temperature=1.0, top_k=10**6),
    ],
)
def test_truncation_equals_sorting(setting):
    rows, vocabulary = 16, 203
    logits = np.random.default_rng(0).normal(size=(rows, vocabulary)).astype(np.float32) * 3
    arrays = jax.tree.map(jnp.asarray, stack_settings([setting] * rows, rows))
    kept = np.isfinite(np.asarray(jax.jit(truncate)(logits, arrays)))
    np.testing.assert_array_equal(kept, [by_sorting(row, setting) for row in logits])


def test_penalty_acts_on_seen_tokens_towards_less_likely():
    logits = jnp.array([[2.0, -2.0, 2.0, -2.0]])
    seen = jnp.array([[True, True, False, False]])
    np.testing.assert_allclose(penalize(logits, seen, jnp.array([2.0])), [[1.0, -4.0, 2.0, -2.0]])


def test_frequencies_follow_the_probabilities():
    wanted = np.array([0.5, 0.3, 0.15, 0.05])
    draws = 4000
    settings = stack_settings([Sampling(temperature=1.0, seed=s) for s in range(draws)], draws)
    logits = jnp.tile(jnp.log(wanted.astype(np.float32)), (draws, 1))
    tokens = choose(logits, settings, jnp.zeros(logits.shape, bool), jnp.zeros(draws, jnp.int32), plain=False)
    frequencies = np.bincount(np.asarray(tokens), minlength=4) / draws
    np.testing.assert_allclose(frequencies, wanted, atol=0.03)


def test_draw_depends_on_seed_and_position_only():
    rows, vocabulary = 6, 50
    logits = jnp.tile(jnp.linspace(0, 1, vocabulary), (rows, 1))
    settings = stack_settings([Sampling(temperature=1.0, seed=s) for s in (1, 2, 1, 2**40 + 1, 1, 2)], rows)
    step = jnp.array([3, 3, 3, 3, 4, 4], jnp.int32)
    tokens = choose(logits, settings, jnp.zeros(logits.shape, bool), step, plain=False).tolist()
    assert tokens[0] == tokens[2]
    assert len(set(tokens)) > 2


def test_greedy_rows_are_the_same_in_both_programs():
    rows, vocabulary = 8, 64
    logits = jax.random.normal(jax.random.key(0), (rows, vocabulary))
    settings = stack_settings([], rows)
    nothing, step = jnp.zeros(logits.shape, bool), jnp.zeros(rows, jnp.int32)
    plain, full = (choose(logits, settings, nothing, step, plain=value) for value in (True, False))
    np.testing.assert_array_equal(plain, full)
    np.testing.assert_array_equal(plain, jnp.argmax(logits, -1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1},
        {"min_p": 2}, {"repetition_penalty": 0}, {"seed": -1}, {"temperature": "hot"}, {"top_k": 1.5},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(Owl2Error, match=next(iter(wrong))):
        Sampling(**wrong)
